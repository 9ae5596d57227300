"""Potentials through the C++ kernel: its own readout, and its inference entry, against torch."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mtp.geometry import Batch
from mtp.heads import ACTIVATIONS
from mtp.kernels.choose import kernel_for
from mtp.kernels.cpu import NativeBasis, NativeReadout, call, library
from mtp.potential import Potential, Prediction
from mtp.structure import Structure
from tests.potentials import SMALL, random_potential
from tests.systems import CUTOFF, MIN_DIST, SYSTEMS, elements, geometry, rattled

READOUTS = {"linear": (), "network": (7,), "skips": (6, 6, 4, 4), "wide": (40,)}
PERIODIC = [name for name, s in SYSTEMS.items() if s.pbc.all()]


def potential(structure: Structure, hidden: tuple[int, ...], **changes) -> Potential:
    """A random potential for the elements of a structure."""
    level = changes.pop("level", (8, 2, 4, 1))
    return random_potential(
        elements(structure), level, cutoff=CUTOFF, min_dist=MIN_DIST, hidden=hidden, **changes
    )


def by_torch(made: Potential, monkeypatch, function):
    """What the function gives when the reference kernel and torch's readout do the work."""
    monkeypatch.setenv("MTP_KERNEL", "reference")
    try:
        return function(made)
    finally:
        monkeypatch.setenv("MTP_KERNEL", "cpu")


def assert_same(actual: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=relative * max(size, 1.0)
    )


def assert_same_prediction(actual: Prediction, expected: Prediction, relative: float) -> None:
    assert_same(actual.energies, expected.energies, relative)
    for term, value in expected.values.items():
        assert_same(actual.values[term], value, relative)


@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_prediction(system: str, hidden: tuple[int, ...], monkeypatch) -> None:
    structure = SYSTEMS[system]
    made, batch = potential(structure, hidden), geometry([structure]).batch()
    expected = by_torch(made, monkeypatch, lambda p: p.predict(batch))
    assert_same_prediction(made.predict(batch), expected, 1e-12)


NETWORKS = {
    **{name: {"activation": name} for name in ACTIVATIONS},
    "timestep": {"timestep": True},
    "embedded": {"embedded": True},
    "everything": {"activation": "silu", "timestep": True, "embedded": True},
}


@pytest.mark.parametrize("hidden", [(7,), (6, 6, 4, 4)], ids=["one layer", "skips"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_kinds_of_networks(network: dict, hidden: tuple[int, ...], monkeypatch) -> None:
    structures = [SYSTEMS[name] for name in ("molecule", "three species", "no pairs")]
    species = elements(*structures)
    made = random_potential(species, cutoff=CUTOFF, min_dist=MIN_DIST, hidden=hidden, **network)
    made.heads["default"].std *= 0.05  # well into the curved parts
    batch = geometry(structures).batch()
    expected = by_torch(made, monkeypatch, lambda p: (p.predict(batch), gradients(p, batch)))
    assert_same_prediction(made.predict(batch), expected[0], 1e-11)
    actual = gradients(made, batch)
    assert expected[1].keys() == actual.keys()
    for name, value in expected[1].items():
        assert value.any()
        assert_same(actual[name], value, 1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_in_single_precision(activation: str, monkeypatch) -> None:
    structure = SYSTEMS["three species"]
    network = {"activation": activation, "timestep": True, "embedded": True}
    made, exact = potential(structure, (6, 6), **network), geometry([structure]).batch()
    expected = by_torch(made, monkeypatch, lambda p: (p.predict(exact), gradients(p, exact)))
    made.cast(torch.float32)
    batch = geometry([structure], dtype=torch.float32).batch()
    assert_same_prediction(made.predict(batch), expected[0], 2e-5)
    # torch's own gradients in float32 are off by up to 2e-5 here, the kernel's by 1.4e-4 (gelu)
    for name, value in gradients(made, batch).items():
        assert_same(value, expected[1][name], 2e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e3])
def test_activations_far_out(activation: str, size: float, monkeypatch) -> None:
    """One neuron over the whole range of its sums."""
    structure = SYSTEMS["five species"]
    made, batch = potential(structure, (1,), activation=activation), geometry([structure]).batch()
    head = made.heads["default"]
    b = made.invariants(batch)
    head.mean.copy_(b.mean(0))
    head.std.fill_(float((b - b.mean(0)).abs().max()) / size)
    expected = by_torch(made, monkeypatch, lambda p: (p.predict(batch), gradients(p, batch)))
    assert_same_prediction(made.predict(batch), expected[0], 1e-12)
    for name, value in gradients(made, batch).items():
        assert_same(value, expected[1][name], 1e-11)


def test_unknown_activation_is_refused() -> None:
    made = potential(SYSTEMS["bulk"], (5,))
    readout = replace(made.heads["default"].readout(), activation="relu")
    with pytest.raises(RuntimeError, match=r"one of tanh, silu, .*, got 'relu'"):
        NativeReadout(readout)


def test_biases_of_other_species_are_refused() -> None:
    made = potential(SYSTEMS["three species"], (5,), embedded=True)
    kernel = kernel_for(made.basis.handle, torch.device("cpu"))
    batch = geometry([SYSTEMS["bulk"]]).batch()
    with pytest.raises(RuntimeError, match="not for this number of species"):
        kernel.predict(made.coefficients[:1, :1], made.heads["default"].readout(), batch.pairs)


def gradients(made: Potential, batch: Batch) -> dict[str, torch.Tensor]:
    """Gradient of a loss with random cotangents, by parameter."""
    rng = torch.Generator().manual_seed(3)
    cotangents = {
        term: torch.randn(label.shape, generator=rng, dtype=torch.float64)
        for term, label in batch.labels.items()
    }
    made.zero_grad()
    made.backward(batch, "default", cotangents)
    return {name: p.grad.clone() for name, p in made.named_parameters()}


@pytest.mark.parametrize("level", [(8, 2, 4, 1), SMALL], ids=["level 8", "small"])
@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
def test_gradient_of_a_loss(hidden: tuple[int, ...], level: tuple, monkeypatch) -> None:
    structures = list(SYSTEMS.values())
    species = elements(*structures)
    made = random_potential(species, level, cutoff=CUTOFF, min_dist=MIN_DIST, hidden=hidden)
    batch = geometry(structures).batch()
    expected = by_torch(made, monkeypatch, lambda p: gradients(p, batch))
    actual = gradients(made, batch)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert value.any()
        assert_same(actual[name], value, 1e-11)


def test_single_precision_readout(monkeypatch) -> None:
    structure = SYSTEMS["three species"]
    made, exact = potential(structure, (6, 6)), geometry([structure]).batch()
    expected = by_torch(made, monkeypatch, lambda p: (p.predict(exact), gradients(p, exact)))
    made.cast(torch.float32)
    batch = geometry([structure], dtype=torch.float32).batch()
    assert_same_prediction(made.predict(batch), expected[0], 2e-5)
    for name, value in gradients(made, batch).items():
        assert_same(value, expected[1][name], 5e-5)


def test_no_structures_at_all() -> None:
    made = potential(SYSTEMS["bulk"], (5,))
    nothing = geometry([SYSTEMS["bulk"]]).batch([])
    assert made.predict(nothing).forces.shape == (0, 3)
    assert not any(g.any() for g in gradients(made, nothing).values())


def test_readout_of_another_basis_is_refused() -> None:
    made, other = potential(SYSTEMS["bulk"], ()), potential(SYSTEMS["bulk"], (), level=SMALL)
    batch = geometry([SYSTEMS["bulk"]]).batch()
    kernel = kernel_for(made.basis.handle, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="do not belong together"):
        kernel.predict(made.coefficients, other.heads["default"].readout(), batch.pairs)


# --- the inference entry: positions in, energies and forces out -----------------------------------


@dataclass(frozen=True)
class Neighbours:
    """What a molecular dynamics code has: local atoms, then ghosts, and lists with a skin."""

    species: np.ndarray
    positions: np.ndarray
    start: np.ndarray
    count: np.ndarray
    neighbour: np.ndarray
    parent: np.ndarray  # (all,) the local atom that each atom is an image of

    @classmethod
    def of(cls, batch: Batch, structure: Structure) -> Neighbours:
        """Every neighbour that is an image becomes a ghost of its own."""
        rows, centre, j = (x.numpy() for x in batch.pairs.explicit())
        ghosts = structure.positions[centre] + batch.pairs.displacement.numpy()[rows]
        n = len(structure)
        here = np.linalg.norm(ghosts - structure.positions[j], axis=1) < 1e-9
        index = np.where(here, j, n + np.cumsum(~here) - 1)
        parent = np.concatenate([np.arange(n), j[~here]])
        count = batch.pairs.count.numpy()
        return cls(
            batch.species.numpy().astype(np.int32)[parent],
            np.concatenate([structure.positions, ghosts[~here]]),
            (np.cumsum(count) - count).astype(np.int64),
            count.astype(np.int32),
            index.astype(np.int32),
            parent,
        )


class NativeModel:
    """mtp_model of mtp/kernels/src/mtp.h."""

    def __init__(self, made: Potential, head: str = "default") -> None:
        self.basis = NativeBasis(made.table, made.spec.radial)
        self.readout = NativeReadout(made.heads[head].readout())
        c = made.coefficients.detach().contiguous()
        shifts = made.heads[head].shifts.detach().contiguous()
        self.pointer = c_void_p()
        new = library().mtp_model_new
        arguments = c_int64(len(c)), c_void_p(c.data_ptr()), c_void_p(shifts.data_ptr())
        out = ctypes.byref(self.pointer)
        call(_sized(new), self.basis.pointer, self.readout.pointer, *arguments, out)

    def __del__(self) -> None:
        library().mtp_model_free(self.pointer)

    def compute(self, at: Neighbours, n_local: int, single: bool = False, threads: int = 1) -> dict:
        """energy, energies, forces on all atoms, virial, atom_virial."""
        n = len(at.positions)
        out = {"energy": 1, "energies": n_local, "forces": 3 * n}
        out |= {"virial": 6, "atom_virial": 6 * n_local}
        out = {name: np.full(size, np.nan) for name, size in out.items()}
        arrays = (at.species, at.positions, at.start, at.count, at.neighbour)
        sizes = (c_int64(int(x)) for x in (single, threads, n_local, n))
        given = (c_void_p(a.ctypes.data) for a in (*map(np.ascontiguousarray, arrays),))
        results = (c_void_p(a.ctypes.data) for a in out.values())
        call(_sized(library().mtp_model_compute), self.pointer, *sizes, *given, *results)
        return out


def _sized(function):
    """The function with its last argument, the message's size, as 64 bits."""
    return lambda *arguments: function(*arguments[:-1], c_int64(arguments[-1]))


def assert_as_predicted(out: dict, at: Neighbours, expected: Prediction, relative: float) -> None:
    n = len(expected.energies)
    forces = np.zeros((n, 3))
    np.add.at(forces, at.parent, out["forces"].reshape(-1, 3))
    assert_same(torch.from_numpy(out["energies"]), expected.energies, relative)
    assert_same(torch.from_numpy(out["energy"]), expected.energy, relative)
    assert_same(torch.from_numpy(forces), expected.forces, relative)
    np.testing.assert_allclose(out["atom_virial"].reshape(-1, 6).sum(0), out["virial"], atol=1e-10)


@pytest.mark.parametrize("hidden", READOUTS.values(), ids=READOUTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_inference(system: str, hidden: tuple[int, ...], monkeypatch) -> None:
    structure = SYSTEMS[system]
    made, batch = potential(structure, hidden), geometry([structure]).batch()
    at = Neighbours.of(batch, structure)
    expected = by_torch(made, monkeypatch, lambda p: p.predict(batch))
    out = NativeModel(made).compute(at, len(structure))
    assert_as_predicted(out, at, expected, 1e-12)
    if system in PERIODIC:
        stress = torch.from_numpy(out["virial"]) / structure.volume
        assert_same(stress[None], expected.stress, 1e-12)


def test_inference_in_single_precision_and_threads(monkeypatch) -> None:
    structure = rattled([8, 14], repeat=2)
    made, batch = potential(structure, (6, 6)), geometry([structure]).batch()
    at = Neighbours.of(batch, structure)
    expected = by_torch(made, monkeypatch, lambda p: p.predict(batch))
    model = NativeModel(made)
    assert_as_predicted(model.compute(at, 64, threads=3), at, expected, 1e-12)
    single = model.compute(at, 64, single=True, threads=2)
    assert_as_predicted(single, at, expected, 2e-5)


def test_inference_of_no_atoms() -> None:
    structure = SYSTEMS["dimer"]
    at = Neighbours.of(geometry([structure]).batch(), structure)
    out = NativeModel(potential(structure, ())).compute(at, 0)
    assert out["energy"] == 0
    assert not out["forces"].any()
    assert not out["virial"].any()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("positions", np.nan, "not finite"),
        ("neighbour", 99, "out of bounds"),
        ("neighbour", -1, "out of bounds"),
        ("count", -1, "out of bounds"),
        ("start", -1, "out of bounds"),
        ("species", 5, "species index is out of range"),
    ],
)
def test_inference_refuses_what_is_wrong(name: str, value: float, said: str) -> None:
    structure = SYSTEMS["molecule"]
    at = Neighbours.of(geometry([structure]).batch(), structure)
    getattr(at, name).flat[0] = value
    with pytest.raises(RuntimeError, match=said):
        NativeModel(potential(structure, ())).compute(at, 5)


def test_inference_refuses_more_local_atoms_than_atoms() -> None:
    structure = SYSTEMS["dimer"]
    at = Neighbours.of(geometry([structure]).batch(), structure)
    with pytest.raises(RuntimeError, match="more local atoms"):
        NativeModel(potential(structure, ())).compute(at, 3)
