"""What processes compute together: run by torchrun in test_distributed.py, by the test alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.distributed import is_root, together
from stages.objective import Objective, evaluate
from stages.optimisers.adam import OPTIMISERS
from stages.tasks import Sampler, everything
from stages.trainer import move_only
from tests.training import potential, stage, structures, task, task_data

STEPS = {"adam": 10, "lbfgs": 2, "lstsq": 1}
"""So few frames leave linear weights that L-BFGS solves for to rounding, which grows from step to
step; after two it is still below what is asked."""


def results() -> dict[str, Tensor]:
    """First gradients, parameters after some steps of every optimiser, sums over a set."""
    torch.manual_seed(0)
    rng = np.random.default_rng(2)
    data = {name: task_data(structures(rng, n), structures(rng, 5)) for name, n in TASKS.items()}
    losses = {"one": task(), "two": task(loss="huber", energy_weighting="per_atom")}
    found: dict[str, Tensor] = {}
    for optimizer in ("adam", "lbfgs", "lstsq"):
        trainable = ("readout", "shifts") if optimizer == "lstsq" else ("descriptor", "readout")
        # with a ridge: weights that the few frames do not determine are rounding
        setting = stage(losses, optimizer=optimizer, trainable=trainable, epochs=10, ridge=1e-6)
        # steps of L-BFGS down a stiff network would show how rounding grows, not what is summed
        model = potential(() if optimizer == "lbfgs" else (4,), heads=tuple(TASKS))
        optimiser = OPTIMISERS[optimizer](move_only(model, setting), setting)
        sampler = Sampler(setting, TASKS, 4, seed=1, index=0, random=True)
        for step in range(STEPS[optimizer]):
            draws, shares = everything(data, TASKS, 12), {"one": 0.7, "two": 0.3}
            if not optimiser.full_batch:
                epoch, place = divmod(step, sampler.steps)
                draws = [sampler.epoch(epoch + 1)[place]]
                shares = {draws[0].task: 1.0}
            objective = Objective(model, setting, data, draws, shares)
            if step == 0:
                evaluation = objective.gradient()
                found[f"{optimizer} loss"] = torch.tensor(evaluation.value)
                found[f"{optimizer} norms"] = torch.tensor(list(evaluation.norms.values()))
                for name, parameter in model.named_parameters():
                    if parameter.grad is not None:
                        found[f"{optimizer} gradient {name}"] = parameter.grad.clone()
            optimiser.step(objective, 0.01)
        for name, parameter in model.named_parameters():
            found[f"{optimizer} after {name}"] = parameter.detach().clone()
    sums = evaluate(model, "one", data["one"].valid, losses["one"])
    return found | {"sums": sums.minimised, **sums.residuals}


TASKS = {"one": 11, "two": 6}
"""Task → training frames; batches of 4 leave one or two frames for the last."""


if __name__ == "__main__":
    with together(torch.device("cpu")):
        computed = results()
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads)  # they would abort the exit at times
    if is_root():
        torch.save(computed, Path(sys.argv[1]))
