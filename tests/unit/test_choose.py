"""Which device is meant by its name."""

from __future__ import annotations

import pytest
import torch

from mtp.errors import InvalidInput
from mtp.kernels import choose
from mtp.kernels.choose import device_for


def gpu(monkeypatch: pytest.MonkeyPatch, there: bool, kernel: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(choose, "find_spec", lambda name: object() if kernel else None)
    monkeypatch.delenv("MTP_KERNEL", raising=False)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("kernel", [False, True])
def test_auto_is_the_gpu_only_with_a_kernel_for_it(monkeypatch, there, kernel):
    gpu(monkeypatch, there, kernel)
    assert device_for("auto").type == ("cuda" if there and kernel else "cpu")
    assert device_for("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("there", "kernel", "reason"),
    [(True, False, "Triton"), (False, True, "no CUDA device"), (False, False, "no CUDA device")],
)
def test_cuda_that_cannot_be_used_is_refused_in_one_line(monkeypatch, there, kernel, reason):
    gpu(monkeypatch, there, kernel)
    with pytest.raises(InvalidInput, match=f"device cuda: .*{reason}.*--device cpu") as error:
        device_for("cuda")
    assert len(error.value.lines) == 1


def test_the_reference_kernel_runs_on_any_gpu(monkeypatch):
    gpu(monkeypatch, there=True, kernel=False)
    monkeypatch.setenv("MTP_KERNEL", "reference")
    assert device_for("cuda").type == "cuda"


def test_a_calculator_works_where_there_is_a_gpu_but_no_kernel_for_it(monkeypatch):
    from mtp import MTPCalculator
    from tests.potentials import random_potential

    gpu(monkeypatch, there=True, kernel=False)
    assert MTPCalculator(random_potential((14,))).device.type == "cpu"
