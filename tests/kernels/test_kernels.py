"""Every kernel against derivatives of the reference kernel's invariants by autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mtp.geometry import Pairs
from mtp.kernels.cpu import CpuKernel
from mtp.kernels.reference import ReferenceKernel, displacement_field
from tests.kernels.on_device import OnDevice
from tests.systems import SPECS, SYSTEMS, Case, case, geometry, rattled

KERNELS = {"reference": ReferenceKernel, "cpu": CpuKernel, "cuda": OnDevice}
DERIVED = [name for name in SYSTEMS if name not in ("isolated atom", "no pairs")]


@pytest.fixture(params=list(KERNELS))
def kernel(request):
    """The class of every kernel; tests/kernels/conftest.py says which tests run for cuda."""
    return KERNELS[request.param]


def assert_near(
    actual: Tensor, expected: Tensor, relative: float, summed: Tensor | None = None
) -> None:
    """Agreement relative to the largest number, of the array or of what it sums; never with NaN."""
    assert actual.shape == expected.shape
    sizes = [float(x.abs().max()) for x in (expected, summed) if x is not None and x.numel()]
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=relative * max(sizes, default=0)
    )


def expected(at: Case, b_bar: Tensor, b_dot_bar: Tensor, c_dot: Tensor, d_dot: Tensor) -> dict:
    """What every method must return, in float64 and by autograd through the invariants alone."""
    c, d, c_dot, d_dot, b_bar, b_dot_bar = (
        x.double() for x in (at.c, at.pairs.displacement, c_dot, d_dot, b_bar, b_dot_bar)
    )
    c, d = c.detach().requires_grad_(), d.detach().requires_grad_()
    reference = ReferenceKernel(at.table, at.radial)
    b = reference.invariants(c, replace(at.pairs, displacement=d))
    seed = torch.zeros_like(b).requires_grad_()
    first = torch.autograd.grad(b, (c, d), seed, create_graph=True)
    (b_dot,) = torch.autograd.grad(first, seed, (c_dot, d_dot), create_graph=True)
    value = (b * b_bar).sum()
    dual = value + (b_dot * b_dot_bar).sum()
    return {
        "b": b.detach(),
        "b_dot": b_dot.detach(),
        "gradient": torch.autograd.grad(value, (c, d), retain_graph=True),
        "second": torch.autograd.grad(dual, (c, d)),
    }


def check_against_autograd(kernel, at: Case, relative: float) -> None:
    """Value, first and second derivatives, and their forms for training."""
    own, pairs, n = kernel(at.table, at.radial), at.pairs, at.n_scalars
    b_bar, b_dot_bar = at.randn(len(pairs), n), at.randn(len(pairs), n)
    c_dot, d_dot = at.randn(*at.c.shape), at.randn(*pairs.displacement.shape)
    true = expected(at, b_bar, b_dot_bar, c_dot, d_dot)

    assert_near(own.invariants(at.c, pairs), true["b"], relative)
    for actual, wanted in zip(own.gradient(b_bar, at.c, pairs), true["gradient"], strict=True):
        assert_near(actual, wanted, relative)
    b_dot, *bars = own.second(b_bar, b_dot_bar, at.c, c_dot, d_dot, pairs)
    assert_near(b_dot, true["b_dot"], relative)
    for actual, wanted in zip(bars, true["second"], strict=True):
        assert_near(actual, wanted, relative)
    check_training_forms(own, at, b_bar, b_dot_bar, relative)


def check_training_forms(own, at: Case, b_bar: Tensor, b_dot_bar: Tensor, relative: float) -> None:
    """Forces and tangents of atoms are the nested derivatives, summed over pairs."""
    pairs, n = at.pairs, len(at.pairs)
    v, strain = at.randn(n, 3), at.randn(n, 6)
    field = displacement_field(v.double(), strain.double(), _double(pairs))
    true = expected(at, b_bar, b_dot_bar, torch.zeros_like(at.c), field)

    forces, virial = own.forces(b_bar, at.c, pairs)
    pull = true["gradient"][1]
    assert_near(forces, _sum_forces(pull, pairs), relative, pull)
    assert_near(virial, _sum_virials(pull, pairs), relative, pull)
    b, b_dot = own.tangent(at.c, v, strain, pairs)
    assert_near(b, true["b"], relative)
    assert_near(b_dot, true["b_dot"], relative)
    c_bar = own.tangent_backward(b_bar, b_dot_bar, at.c, v, strain, pairs)
    assert_near(c_bar, true["second"][0], relative)


def _double(pairs: Pairs) -> Pairs:
    return replace(pairs, displacement=pairs.displacement.double())


def _sum_forces(pull: Tensor, pairs: Pairs) -> Tensor:
    """−∂E/∂r of atoms, pair by pair."""
    forces = torch.zeros(len(pairs), 3, dtype=torch.float64)
    for row, i, j in zip(*pairs.explicit(), strict=True):
        forces[i] += pull[row]
        forces[j] -= pull[row]
    return forces


def _sum_virials(pull: Tensor, pairs: Pairs) -> Tensor:
    """Σ_j d ⊗ ∂E_i/∂d in Voigt order."""
    virial = torch.zeros(len(pairs), 6, dtype=torch.float64)
    for row, i, _ in zip(*pairs.explicit(), strict=True):
        tensor = torch.outer(pairs.displacement[row].double(), pull[row])
        for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
            virial[i, k] += tensor[a, b]
    return virial


def check_one_by_one(at: Case, relative: float) -> None:
    """The invariants' own forces and virials add up to those of any sum of them."""
    own, weights = CpuKernel(at.table, at.radial), at.randn(at.n_scalars)
    b, forces, virial = own.columns(at.c, at.pairs)
    assert_near(b, own.invariants(at.c, at.pairs), relative)
    assert forces.shape == (len(at.pairs), 3, at.n_scalars)
    seed = weights.expand(len(at.pairs), -1).contiguous()
    expected = own.forces(seed, at.c, at.pairs)
    for found, whole in zip((forces, virial), expected, strict=True):
        assert_near(found @ weights.double(), whole, relative, found)
    last = torch.zeros_like(seed)
    last[:, -1] = 1.0
    assert_near(forces[..., -1], own.forces(last, at.c, at.pairs)[0], relative)


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_by_one_in_every_system(system: str) -> None:
    check_one_by_one(case(SYSTEMS[system]), 1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_one_by_one_in_every_table(spec: str) -> None:
    check_one_by_one(case(SYSTEMS["two species"], SPECS[spec]), 1e-12)


def test_one_by_one_in_single_precision_and_by_threads() -> None:
    at = case(rattled([8, 14] * 20, seed=2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        check_one_by_one(at, 1e-12)
    finally:
        torch.set_num_threads(before)
    single = replace(at.pairs, displacement=at.pairs.displacement.float())
    own = CpuKernel(at.table, at.radial)
    for found, exact in zip(
        own.columns(at.c.float(), single), own.columns(at.c, at.pairs), strict=True
    ):
        assert_near(found, exact, 1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(kernel, system: str) -> None:
    check_against_autograd(kernel, case(SYSTEMS[system]), 1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_every_table(kernel, spec: str) -> None:
    check_against_autograd(kernel, case(SYSTEMS["left-handed"], SPECS[spec]), 1e-10)


@pytest.mark.parametrize("n_q", [1, 2, 3, 8])
@pytest.mark.parametrize("spec", ["level 2", "level 6", "small"])
def test_every_number_of_polynomials(kernel, n_q: int, spec: str) -> None:
    check_against_autograd(kernel, case(SYSTEMS["pair below min_dist"], SPECS[spec], n_q), 1e-10)


@pytest.mark.parametrize("spec", ["level 8", "small"])
@pytest.mark.parametrize("system", DERIVED)
def test_single_precision(kernel, system: str, spec: str) -> None:
    """Float32 rounds at 6e-8; four factors, sums over pairs and two derivatives cost two digits."""
    at = case(SYSTEMS[system], SPECS[spec], dtype=torch.float32)
    check_against_autograd(kernel, at, 2e-5)


def test_absent_species_have_no_part(kernel) -> None:
    at = case(SYSTEMS["two species"], species=(1, 8, 13, 14, 92))
    check_against_autograd(kernel, at, 1e-10)
    c_bar, _ = kernel(at.table, at.radial).gradient(at.randn(8, at.n_scalars), at.c, at.pairs)
    present = torch.tensor([False, True, False, True, False])
    assert c_bar[present][:, present].abs().min() > 0
    assert c_bar[~present].abs().max() == 0
    assert c_bar[:, ~present].abs().max() == 0


def test_many_structures_at_once(kernel) -> None:
    everything = list(SYSTEMS.values())
    check_against_autograd(kernel, case(everything), 1e-10)


def test_more_atoms_than_the_kernel_sorts_at_once() -> None:
    """Lanes are matched within windows of 1024 atoms; 1728 make two."""
    at = case(rattled([8, 14, 29], repeat=6), SPECS["level 6"])
    b_bar = at.randn(len(at.pairs), at.n_scalars)
    results = [
        (own.invariants(at.c, at.pairs), *own.forces(b_bar, at.c, at.pairs))
        for own in (kind(at.table, at.radial) for kind in (ReferenceKernel, CpuKernel))
    ]
    for actual, wanted in zip(*reversed(results), strict=True):
        assert_near(actual, wanted, 1e-12)


def test_no_atoms(kernel) -> None:
    at = case(SYSTEMS["bulk"])
    nothing = geometry([SYSTEMS["bulk"]]).batch([]).pairs
    own, n = kernel(at.table, at.radial), at.n_scalars
    assert own.invariants(at.c, nothing).shape == (0, n)
    c_bar, d_bar = own.gradient(at.randn(0, n), at.c, nothing)
    assert not c_bar.any()
    assert not d_bar.any()
    forces, virial = own.forces(at.randn(0, n), at.c, nothing)
    assert forces.shape == (0, 3)
    assert virial.shape == (0, 6)


def test_batch_may_be_any_part_of_the_pairs(kernel) -> None:
    names = ["molecule", "left-handed", "isolated atom", "slab", "five species"]
    at = case([SYSTEMS[name] for name in names])
    species = (1, 6, 8, 14, 29)
    own, whole = kernel(at.table, at.radial), geometry([SYSTEMS[name] for name in names], species)
    chosen = whole.batch([3, 2, 0])
    b = own.invariants(at.c, chosen.pairs)
    b_bar = torch.randn_like(b)
    _, d_bar = own.gradient(b_bar, at.c, chosen.pairs)
    forces, virial = own.forces(b_bar, at.c, chosen.pairs)
    first, seen = 0, torch.zeros(len(d_bar), dtype=torch.bool)
    for index in (3, 2, 0):
        alone = geometry([SYSTEMS[names[index]]], species).batch().pairs
        rows = slice(first, first + len(alone))
        first += len(alone)
        assert_near(b[rows], own.invariants(at.c, alone), 1e-13)
        true_forces, true_virial = own.forces(b_bar[rows], at.c, alone)
        assert_near(forces[rows], true_forces, 1e-13)
        assert_near(virial[rows], true_virial, 1e-13)
        part = whole.batch([index]).pairs.explicit()[0]
        seen[part] = True
        assert_near(d_bar[part], own.gradient(b_bar[rows], at.c, alone)[1], 1e-13)
    assert not d_bar[~seen].any()


def test_strides_do_not_matter(kernel) -> None:
    at = case(SYSTEMS["three species"])
    own, pairs = kernel(at.table, at.radial), at.pairs
    loose = Pairs(*(_loose(x) for x in vars(pairs).values()))
    b_bar, c_dot = at.randn(8, at.n_scalars), at.randn(*at.c.shape)
    d_dot, v, strain = at.randn(*pairs.displacement.shape), at.randn(8, 3), at.randn(8, 6)
    for name, arguments in {
        "invariants": (at.c,),
        "gradient": (b_bar, at.c),
        "second": (b_bar, 2 * b_bar, at.c, c_dot, d_dot),
        "forces": (b_bar, at.c),
        "tangent": (at.c, v, strain),
        "tangent_backward": (b_bar, 2 * b_bar, at.c, v, strain),
    }.items():
        tight = getattr(own, name)(*arguments, pairs)
        other = getattr(own, name)(*map(_loose, arguments), loose)
        for one, two in zip(_tuple(tight), _tuple(other), strict=True):
            assert_near(two, one, 1e-14)


def _loose(x: Tensor | None) -> Tensor | None:
    """The same numbers, every second one in memory and the first axis innermost."""
    if x is None:
        return None
    wide = torch.full((*x.shape[::-1], 2), 77, dtype=x.dtype)
    wide[..., 0] = x.permute(*range(x.ndim)[::-1])
    loose = wide[..., 0].permute(*range(x.ndim)[::-1])
    assert not loose.is_contiguous()
    return loose


def _tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("n_q", [1, 4])
def test_nan_stays_nan(kernel, spec: str, n_q: int) -> None:
    """A displacement that is not a number spoils its own atom and no other."""
    at = case(SYSTEMS["bulk"], SPECS[spec], n_q)
    at.pairs.displacement[int(at.pairs.start[3]) + 1, 1] = torch.nan
    bad = kernel(at.table, at.radial).invariants(at.c, at.pairs).isnan()
    assert bad[3].any()
    assert not bad[[0, 1, 2, 4, 5, 6, 7]].any()


def test_pairs_at_or_beyond_the_cutoff_count_for_nothing(kernel) -> None:
    at = case(SYSTEMS["pair at the cutoff"])
    own = kernel(at.table, at.radial)
    r = torch.linalg.norm(at.pairs.displacement, dim=1)
    beyond = r >= at.radial.r_max
    assert beyond.any()
    c_bar, d_bar = own.gradient(at.randn(3, at.n_scalars), at.c, at.pairs)
    assert c_bar.any()
    assert not d_bar[beyond].any()
    assert d_bar[~beyond].any()
