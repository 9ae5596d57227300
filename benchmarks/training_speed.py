"""Time of one evaluation of loss and full gradient over the silicon set, against MOTEP.

    python -m benchmarks.training_speed

214 structures (13 233 atoms), energies, forces and stresses, cutoff 5 Å, 8 polynomials, one thread.
Ours is what a full-batch optimiser calls; MOTEP's are its own loss and gradient functions on the
same potential. MOTEP sees every n-th structure where it is slow, and counts per atom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import calculator_speed, peer
from benchmarks.common import LEVELS, arguments, per_atom, ratio, record, say, side_by_side
from benchmarks.systems import potential_for, silicon_set
from mtp.geometry import Geometry
from mtp.potential import Potential
from mtp.structure import Structure
from stages.control.defaults import TASK, stage
from stages.objective import Objective
from stages.plan import coefficients
from stages.tasks import TaskData, everything

STRIDES = {8: 1, 12: 1, 16: 1, 20: 4}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    structures = silicon_set()
    levels = LEVELS[:2] if options.quick else LEVELS
    results = [one_level(level, structures, options.quick) for level in levels]
    say(f"written: {record('training_speed', results, options.quick)}")


def one_level(level: int, structures: list[Structure], quick: bool) -> dict[str, Any]:
    """Ours in both precisions, MOTEP's, and their ratios."""
    potential = potential_for(str(level), structures, _shortest(structures))
    stride = 32 if quick else STRIDES[level]
    loss = peer.loss_function(potential, stride)
    error = agreement(potential, structures[::stride], loss)
    ours = objective(potential, structures, torch.float64)
    single = objective(potential, structures, torch.float32)
    times = side_by_side(
        {
            "float64": ours.gradient,
            "float32": single.gradient,
            "loss_only": ours.value,
            "motep": lambda: peer.evaluate(loss),
        },
        rounds=3 if quick else 5,
    )
    atoms = sum(map(len, structures))
    sizes = dict.fromkeys(times, atoms) | {"motep": sum(map(len, structures[::stride]))}
    train = ours.data[TASK].train
    row = {
        "level": level,
        "atoms": atoms,
        "pairs": train.n_pairs,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "motep_stride": stride,
        "motep_atoms": sizes["motep"],
        "agreement": error,
        "costs": potential.kernel.basis.costs(),
        "seconds_per_evaluation": {k: times[k]["cpu"] for k in ("float64", "float32")},
        "times": {name: per_atom(t, sizes[name]) for name, t in times.items()},
        "ratios": {
            "motep/float64": ratio(times["motep"], times["float64"], sizes["motep"], atoms),
            "motep/float32": ratio(times["motep"], times["float32"], sizes["motep"], atoms),
            "float64/float32": ratio(times["float64"], times["float32"], atoms, atoms),
        },
    }
    row["mlip3"] = against_mlip3(level, row["times"], quick)
    row["ratios"] |= row["mlip3"].pop("ratios")
    r = row["ratios"]
    say(
        f"level {level}: {row['times']['float64']['cpu_us_per_atom']:.2f} µs/atom, "
        f"float32 {row['times']['float32']['cpu_us_per_atom']:.2f}, MOTEP "
        f"{row['times']['motep']['cpu_us_per_atom']:.0f}: {r['motep/float64']:.0f} times; "
        f"MLIP-3 (carried over): {r['mlip3/float64']:.1f} times"
    )
    return row


def objective(potential: Potential, structures: list[Structure], dtype: torch.dtype) -> Objective:
    """The loss over all structures as a full-batch optimiser sees it."""
    copy = Potential(potential.spec)
    copy.load_state_dict(potential.state_dict())
    train = Geometry(structures, copy.spec.species, copy.spec.cutoff, dtype)
    valid = Geometry([], copy.spec.species, copy.spec.cutoff, dtype)
    plan = stage("stage1", 1, 1.0, coefficients(1.0, 0.01, 0.001))
    data = {TASK: TaskData.of(train, valid)}
    return Objective(copy.cast(dtype), plan, data, everything(data, [TASK]), {TASK: 1.0})


def against_mlip3(level: int, times: dict[str, Any], quick: bool) -> dict[str, Any]:
    """MLIP-3's figures in this machine's time, by MOTEP's calculator measured on both."""
    calculators = calculator_speed.compare(str(level), 1, quick, only=("motep",))
    scale = peer.machine_scale(level, calculators["times"]["motep"]["cpu_us_per_atom"])
    gradient, loss = scale * peer.MLIP3_GRADIENT[level], scale * peer.MLIP3_LOSS[level]
    times["mlip3"] = {"cpu_us_per_atom": gradient}
    return {
        "machine_scale": scale,
        "gradient_us_per_atom": gradient,
        "loss_us_per_atom": loss,
        "ratios": {
            "mlip3/float64": gradient / times["float64"]["cpu_us_per_atom"],
            "mlip3 loss/float64 loss": loss / times["loss_only"]["cpu_us_per_atom"],
        },
    }


def agreement(potential: Potential, structures: list[Structure], loss: Any) -> dict[str, float]:
    """Largest relative difference of forces and of the loss's gradient by c, ours and MOTEP's."""
    batch = Geometry(structures, potential.spec.species, potential.spec.cutoff).batch()
    found = potential.predict(batch)
    gradient = peer.evaluate(loss)
    forces = np.concatenate([image.calc.results["forces"] for image in loss.images])
    atoms = batch.atoms_per_structure
    volume2 = (batch.volume / atoms) ** 2 if loss.setting.energy_per_atom else batch.volume**2
    per_frame = 2 / len(structures)
    shear = torch.tensor([1, 1, 1, 2, 2, 2], dtype=torch.float64)  # both halves of the tensor count
    weights = loss.setting
    potential.zero_grad(set_to_none=True)
    errors = {term: value - batch.labels[term] for term, value in found.values.items()}
    scales = {
        "energy": weights.energy_weight / atoms**2,
        "forces": weights.forces_weight / atoms[batch.structure][:, None],
        "stress": weights.stress_weight * volume2[:, None] * shear,
    }
    cotangents = {term: per_frame * scales[term] * error for term, error in errors.items()}
    potential.backward(batch, "default", cotangents)
    ours = (potential.radial.grad / potential.radial_scale).flatten().numpy()
    theirs = gradient[-ours.size :]
    return {
        "forces": _relative(found.forces.numpy(), forces),
        "gradient": _relative(ours, theirs),
    }


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def _shortest(structures: list[Structure]) -> float:
    geometry = Geometry(structures, (14,), 3.0)
    return float(torch.linalg.norm(geometry.batch().pairs.displacement, dim=1).min())


if __name__ == "__main__":
    main()
