"""Steps on a GPU that is not there: what a GPU would have to wait for, or could not do at all.

Tensors have shapes and a device but no numbers (torch's FakeTensorMode), passes are noted instead
of run. Run by test_cuda.py as a program, for the library must be loaded before torch; prints for
each part what it waits for. --quick: some of the parts.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    torch_folder = Path(find_spec("torch").submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "pretended.so"
        places = [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
        subprocess.run(
            [
                *("c++", "-std=c++20", "-O0", "-shared", "-fPIC", "-o", library),
                *(Path(__file__).with_suffix(".cpp"), *places, "-ltorch_cpu", "-lc10"),
                f"-Wl,-rpath,{torch_folder / 'lib'}",
            ],
            check=True,
        )
        ctypes.CDLL(str(library))

import numpy as np
import torch
import torch._dynamo  # before main changes torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mtp import device_list, device_md
from mtp.geometry import Geometry
from mtp.kernels import cuda
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from mtp.terms import PREDICTED
from stages.objective import Objective
from stages.optimisers import curvature, lbfgs
from stages.optimisers.adam import OPTIMISERS, Average
from stages.plan import coefficients
from stages.tasks import Draw, TaskData
from stages.trainer import move_only
from tests.potentials import disordered
from tests.training import SPECIES, stage, structures, task

DEVICE = torch.device("cuda", 0)
LIMITS = (2**31 - 1, 2**16 - 1, 2**16 - 1)  # of a grid
ASKS = ("nonzero", "masked_select", "bincount", "unique", "repeat_interleave.Tensor")


class Watch(TorchDispatchMode):
    """Notes what makes the host wait for a GPU; read numbers are made up."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.read = 0.0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name, keywords = str(function), keywords or {}
        given = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, torch.Tensor)]
        there = {x.device.type for x in given if x.dim() or x.is_cuda}
        if "_local_scalar_dense" in name:
            if "cuda" in there:
                self.waits[name] += 1
            self.read -= 1.0  # downhill
            return self.read if given[0].is_floating_point() else 1
        if "aten.index.Tensor" in name and any(x.dtype == torch.bool for x in given[1:]):
            self.waits[name] += 1
            return arguments[0].clone()  # as if all were chosen
        if any(ask in name for ask in ASKS) and "cuda" in there:
            self.waits[name] += 1
        result = function(*arguments, **keywords)
        made = {x.device.type for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        sent = keywords.get("non_blocking", False) and there == {"cpu"}
        if "cuda" in there | made and "cpu" in there | made and not sent:
            self.waits[name] += 1
        return result


def noted(function, grid, *arguments, **constants) -> None:
    """Instead of running a pass: its arguments must be those of a GPU."""
    name = function.fn.__name__
    assert len(grid) <= 3, name
    assert all(0 < n <= most for n, most in zip(grid, LIMITS, strict=False)), (name, grid)
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            assert argument.device == DEVICE, (name, argument.device)
            assert argument.is_contiguous(), name
        else:
            assert isinstance(argument, int), (name, argument)
            assert abs(argument) < 2**31, name
    assert len(arguments) + len(constants) == len(function.arg_names), name


HEADS = {
    "linear": [{}],
    "network": [{"hidden": (4, 4)}],
    "embedded network": [{"hidden": (4,), "embedded": True, "timestep": True}],
    "two levels of theory": [{}, {"hidden": (4,)}],
    "energy and tensors": [
        {},
        {"kind": "dipole"},
        {"kind": "polarizability", "hidden": (4,)},
    ],
}
QUICK = ("embedded network", "energy and tensors")


def potential(heads: list[dict]) -> Potential:
    """A potential with these heads and numbers, on the processor."""
    embedding = EmbeddingSpec((4,)) if any(head.get("embedded") for head in heads) else None
    named = tuple(HeadSpec(f"task{k}", **head) for k, head in enumerate(heads))
    spec = PotentialSpec(SPECIES, 4.0, 1.0, n_q=3, levmax=6, heads=named, embedding=embedding)
    with unset_fake_temporarily():
        return Potential(spec).cast(torch.float32)


def objective(model: Potential, frames: list, optimizer: str) -> Objective:
    """Each task's loss over all frames: a draw of the first task for Adam, else of all of them."""
    tasks, data = {}, {}
    for head in model.spec.heads:
        terms = PREDICTED[head.kind]
        weights = coefficients(1.0, 0.1, 10.0) if head.kind == "energy" else dict.fromkeys(terms, 1)
        tasks[head.name] = task(loss="huber", coefficients=weights)
        train, valid = (
            Geometry(f, SPECIES, 4.0, torch.float32, DEVICE, terms=terms) for f in (frames, [])
        )
        assert train.resident
        data[head.name] = TaskData.of(train, valid, terms)
    trainable = ("readout", "shifts") if optimizer == "lstsq" else ("descriptor", "readout")
    setting = stage(tasks, optimizer=optimizer, trainable=trainable, gradient_clip=1.0, pull=0.1)
    draws = [Draw(name, np.arange(len(frames))) for name in tasks]
    shares = dict.fromkeys(tasks, 1.0)
    origin = {name: p.detach().clone() for name, p in model.named_parameters()}
    return Objective(model, setting, data, draws, shares, origin)


def steps(optimizer: str, heads: list[dict]) -> Counter[str]:
    """What a second step waits for; the first one sends tables that stay."""
    frames = structures(np.random.default_rng(0), 5)
    model = potential(heads).to(DEVICE)
    whole = objective(model, frames, optimizer)
    groups = move_only(model, whole.stage)
    optimiser = OPTIMISERS[optimizer](groups, whole.stage)
    average = Average([p for group in groups.values() for p in group], 0.9)
    waits = Watch()
    for _ in range(2):
        waits = Watch()
        with waits:
            for draw in whole.draws if optimizer == "adam" else [None]:
                one = whole
                if draw is not None:
                    given = (model, whole.stage, whole.data, [draw], {draw.task: 1.0}, whole.origin)
                    one = Objective(*given)
                optimiser.step(one, 0.01)
                average.update()
        saved = optimiser.state_dict()
    here = tree_map_only(torch.Tensor, lambda x: x.cpu(), saved)
    again = OPTIMISERS[optimizer](groups, whole.stage)
    again.load_state_dict(here)
    with Watch():
        again.step(whole, 0.01)
    return waits.waits


def dynamics() -> Counter[str]:
    """What a step of molecular dynamics waits for."""
    device_list.DeviceList.build = lambda self, x: self.built_for.copy_(x)
    own = device_md.DeviceDynamics(potential([{}]).to(DEVICE), disordered(SPECIES), head="task0")
    with Watch() as watch:
        own.step()
    return watch.waits


def main() -> None:
    cuda.launch = device_list.launch = noted
    lbfgs.TRIALS = curvature.PASSES = 1
    torch.Tensor.pin_memory = lambda self: self
    torch.Generator = lambda device=None: torch.default_generator  # of a GPU there is none
    quick = "--quick" in sys.argv
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name in QUICK if quick else HEADS:
            print(f"adam, {name}:", dict(steps("adam", HEADS[name])), flush=True)
        for optimizer in () if quick else ("lbfgs", "lstsq"):
            for name in QUICK:
                steps(optimizer, HEADS[name])  # which may wait; what restarts it comes from a file
                print(f"{optimizer}, {name}: {{}}", flush=True)
        print("dynamics:", dict(dynamics()), flush=True)


if __name__ == "__main__":
    main()
