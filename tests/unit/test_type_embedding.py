"""The type embedding and shared layers: what they are made of, gradients, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.errors import InvalidInput
from mtp.initialise import initialise
from mtp.kernels.inference import NativeModel
from mtp.model_file import load_model, save_model
from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec
from mtp.type_embedding import TypeEmbedding
from tests.potentials import random_potential
from tests.systems import CUTOFF, MIN_DIST, SYSTEMS, elements, geometry

STRUCTURES = [SYSTEMS[name] for name in ("three species", "two species", "molecule")]


def embedded(*neuron: int, timestep: bool = False, hidden: tuple[int, ...] = (5,)) -> Potential:
    species = elements(*STRUCTURES)
    spec = PotentialSpec(
        species,
        CUTOFF,
        MIN_DIST,
        n_q=4,
        heads=(HeadSpec(hidden=hidden, embedded=True),),
        embedding=EmbeddingSpec(neuron, timestep),
    )
    potential = Potential(spec)
    initialise(potential, geometry(STRUCTURES).batch(), torch.Generator().manual_seed(1))
    return potential


def cotangents(batch):
    generator = torch.Generator().manual_seed(2)
    return {
        term: torch.randn(label.shape, generator=generator, dtype=torch.float64)
        for term, label in batch.labels.items()
    }


@pytest.mark.parametrize("timestep", [False, True])
def test_layers_add_their_input_once_or_twice(timestep: bool) -> None:
    embedding = TypeEmbedding(3, (2, 4, 4), timestep)
    embedding.start(torch.Generator().manual_seed(0))
    a, b, c = (layer.weight.detach() for layer in embedding.layers)
    bias = [layer.bias.detach() for layer in embedding.layers]
    time = 0.1 if timestep else 1.0
    x = torch.tanh(a.T + bias[0])
    x = torch.cat([x, x], 1) + time * torch.tanh(x @ b.T + bias[1])
    x = x + time * torch.tanh(x @ c.T + bias[2])
    torch.testing.assert_close(embedding().detach(), x)


def test_parameters_grow_linearly_with_species() -> None:
    def size(n: int) -> int:
        spec = PotentialSpec(tuple(range(1, n + 1)), 5.0, 1.0, embedding=EmbeddingSpec((8, 8)))
        return sum(p.numel() for p in Potential(spec).parameters())

    assert size(40) - size(20) == 2 * (size(30) - size(20)) == 2 * (size(20) - size(10))


@pytest.mark.parametrize("neuron", [(4,), (2, 4, 8), (32,)])
def test_a_step_moves_coefficients_as_far_as_in_a_table(neuron: tuple[int, ...]) -> None:
    """Adam moves all components of a pair by the learning rate at once."""
    species, moves = elements(*STRUCTURES), []
    for embedding in (None, EmbeddingSpec(neuron)):
        potential = Potential(PotentialSpec(species, CUTOFF, MIN_DIST, embedding=embedding))
        initialise(potential, geometry(STRUCTURES).batch(), torch.Generator().manual_seed(0))
        before = potential.coefficients
        (gradient,) = torch.autograd.grad(before[0, 1].sum(), potential.radial)
        with torch.no_grad():
            potential.radial += gradient.sign()
            moves.append((potential.coefficients - before)[0, 1])
    assert torch.all(moves[1] > moves[0] / 3)
    assert torch.all(moves[1] < moves[0] * 3)


def test_gradients_by_finite_differences() -> None:
    potential, batch = embedded(2, 4, timestep=True), geometry(STRUCTURES).batch()
    given = cotangents(batch)
    potential.backward(batch, "default", given)

    def loss() -> float:
        values = potential.predict(batch).values
        return float(sum((c * values[term]).sum() for term, c in given.items()))

    for name, parameter in potential.named_parameters():
        before, along = parameter.data.clone(), torch.randn_like(parameter.data)

        def change(size: float, at=parameter, start=before, direction=along) -> float:
            at.data.copy_(start + size * direction)
            up = loss()
            at.data.copy_(start - size * direction)
            return (up - loss()) / (2 * size)

        numeric = (4 * change(1e-5) - change(2e-5)) / 3
        parameter.data.copy_(before)
        slope = float((parameter.grad * along).sum())
        assert slope == pytest.approx(numeric, rel=1e-5, abs=1e-8), name
        assert slope != 0, name


def test_kernels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, found = geometry(STRUCTURES).batch(), []
    for kernel in ("cpu", "reference"):
        monkeypatch.setenv("MTP_KERNEL", kernel)
        potential = embedded(3)
        potential.backward(batch, "default", cotangents(batch))
        found.append([p.grad for p in potential.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def test_a_model_file_holds_the_expanded_table(tmp_path: Path) -> None:
    potential, structure = embedded(3), SYSTEMS["three species"]
    save_model(tmp_path / "model", potential)
    batch = geometry([structure], potential.spec.species).batch()
    expected = potential.predict(batch)
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded.predict(batch).energies, expected.energies)
    state = potential.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert NativeModel.load(tmp_path / "model").species == potential.spec.species


# --- shared layers --------------------------------------------------------------------------------


def sharing(*names: tuple[str | None, ...], hidden: tuple[int, ...] = (4, 4)) -> Potential:
    heads = tuple(
        HeadSpec(head, hidden=hidden, shared=shared)
        for head, shared in zip("abc", names, strict=False)
    )
    return random_potential((8, 14), cutoff=CUTOFF, min_dist=MIN_DIST, heads=heads)


def test_layers_of_one_name_are_one() -> None:
    potential = sharing(
        ("first", "second", "last"), ("first", None, "last"), (None, "second", None)
    )
    a, b, c = potential.heads.values()
    assert a.layers[0] is b.layers[0]
    assert a.layers[1] is not b.layers[1]
    assert a.last is b.last
    assert c.layers[1] is a.layers[1]
    assert c.last is not a.last
    assert a.shifts is not b.shifts


def test_one_step_of_a_head_changes_the_other() -> None:
    potential = sharing(("first", None, None), ("first", None, None))
    structure = SYSTEMS["two species"]
    batch = geometry([structure], (8, 14)).batch() if set(structure.numbers) <= {8, 14} else None
    assert batch is not None
    before = potential.predict(batch, "b").energy
    potential.backward(batch, "a", cotangents(batch))
    assert potential.heads["b"].layers[1].weight.grad is None
    with torch.no_grad():
        layer = potential.heads["b"].layers[0]
        layer.weight -= 1e-3 * layer.weight.grad
    assert not torch.equal(potential.predict(batch, "b").energy, before)


@pytest.mark.parametrize(
    ("names", "hidden", "said"),
    [
        ((("x", None, None), (None, None, "x")), (4, 4), "layers of one name must be alike"),
        ((("x", None), ("x", None)), (4, 4), "one more than hidden layers"),
    ],
)
def test_layers_that_cannot_be_one(names, hidden, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        sharing(*names, hidden=hidden)


def test_shared_layers_in_a_file(tmp_path: Path) -> None:
    potential = sharing(("first", None, None), ("first", None, None))
    save_model(tmp_path / "model", potential)
    loaded = load_model(tmp_path / "model")
    assert loaded.heads["a"].layers[0] is loaded.heads["b"].layers[0]
    state = potential.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert np.isfinite(sum(float(p.detach().sum()) for p in loaded.parameters()))
