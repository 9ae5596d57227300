"""Which tests of the CUDA kernel run: all on a GPU, few through Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.on_device import HAS_TRITON, ON_GPU

QUICK = (
    "test_every_system[cuda-pair below min_dist]",
    "test_every_system[cuda-no pairs]",
    "test_every_system[cuda-three species]",
    "test_every_table[cuda-odd costs]",
    "test_every_table[cuda-small]",
    "test_every_number_of_polynomials[cuda-level 2-1]",
    "test_single_precision[cuda-two species-level 8]",
    "test_no_atoms[cuda]",
    "test_batch_may_be_any_part_of_the_pairs[cuda]",
    "test_nan_stays_nan[cuda-4-level 6]",
    "test_pairs_at_or_beyond_the_cutoff_count_for_nothing[cuda]",
    "test_rows_turn_with_the_structure[cuda-1-molecule]",
)
"""Through the interpreter; the others take minutes and run with --slow."""


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, tests with the parameter `cuda` that this machine cannot run."""
    missing = pytest.mark.skip(
        reason="CUDA kernel: no GPU, no Triton to interpret it; install mtp-train[test-triton]"
    )
    slow = pytest.mark.skip(reason="CUDA kernel without a GPU, interpreted: run with --slow")
    for item in items:
        of_kernel = "cuda" in getattr(getattr(item, "callspec", None), "id", "").split("-")
        if of_kernel:
            item.add_marker(pytest.mark.triton)
        if not item.get_closest_marker("triton") or ON_GPU:
            continue
        if not HAS_TRITON:
            item.add_marker(missing)
        elif of_kernel and item.name not in QUICK and not config.getoption("--slow"):
            item.add_marker(slow)
