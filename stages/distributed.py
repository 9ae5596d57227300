"""Several processes train one potential: every sum over structures is a sum over processes too.

All processes (ranks) run the same program on the same plan; frames of a batch are dealt out by
cost, and sums, gradients and matrices are added up, so that every rank takes the same step. Rank 0
alone writes. Without torchrun there is one rank and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mtp.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
    from torch.nn import Parameter

T = TypeVar("T")
LAUNCHED_WITH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def launched() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started this process."""
    return all(name in os.environ for name in LAUNCHED_WITH)


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def size() -> int:
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_root() -> bool:
    """Whether this process is the one that speaks and writes."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where the device is a GPU: one each, in order.

    Raises InvalidInput where there are fewer GPUs than processes on this machine.
    """
    import torch

    if device.type != "cuda" or not launched():
        return device
    mine, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if mine >= there:
        raise InvalidInput(
            f"process {mine} of this machine has no GPU: torch sees {there}; start torchrun with "
            f"--nproc-per-node {there}, or use the processors by --device cpu"
        )
    return torch.device("cuda", mine)


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Within the context the processes can talk: over NCCL between GPUs, else over Gloo."""
    if not launched():
        yield
        return
    import torch
    import torch._dynamo  # imported later, it keeps the group alive: Gloo's threads abort the exit
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def mine(indices: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Those of the frames that this process does, in their order.

    Each frame, the costliest first, goes to the rank with the least to do. costs: of all frames.
    """
    if size() == 1:
        return indices
    import numpy as np

    load = np.zeros(size())
    owner = np.empty(len(indices), dtype=np.int64)
    for k in np.argsort(-costs[indices], kind="stable"):
        owner[k] = load.argmin()
        load[owner[k]] += costs[indices[k]]
    return indices[owner == rank()]


def all_sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor added up over the ranks, in float64 and in one message."""
    if size() == 1:
        return list(tensors)
    import torch
    from torch import distributed

    flat = torch.cat([x.detach().reshape(-1).double() for x in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([x.numel() for x in tensors])
    return [part.view_as(x).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]


def sum_gradients(parameters: Iterable[Parameter]) -> None:
    """Make every ``.grad`` the sum over the ranks; None stays None where all ranks have None."""
    if size() == 1:
        return
    import torch

    moving = [p for p in parameters if p.requires_grad]
    if not moving:
        return
    known = [float(p.grad is not None) for p in moving]
    (there,) = all_sum([torch.tensor(known)])  # between the hosts: no GPU is waited for
    sums = all_sum([torch.zeros_like(p) if p.grad is None else p.grad for p in moving])
    for parameter, known, total in zip(moving, there.tolist(), sums, strict=True):
        parameter.grad = total if known else None


def any_rank(flag: bool) -> bool:
    """Whether it holds on some rank."""
    if size() == 1:
        return flag
    import torch

    return bool(all_sum([torch.tensor(float(flag))])[0] > 0)


def same(tensors: Iterable[Tensor]) -> None:
    """Give every rank the numbers of rank 0, in place."""
    if size() == 1:
        return
    from torch import distributed

    for tensor in tensors:
        data = tensor.detach()
        whole = data.contiguous()
        distributed.broadcast(whole, 0)
        if whole is not data:
            data.copy_(whole)


def on_root(function: Callable[[], T]) -> T:
    """What the function returns or raises on rank 0, on every rank."""
    if size() == 1:
        return function()
    from torch import distributed

    outcome: list[Any] = [None, None]
    if is_root():
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, 0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
