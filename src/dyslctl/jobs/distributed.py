"""Several processes that train together, on one machine or more: each computes its share of every step's samples.

    accelerate launch --multi_gpu --num_processes 4 -m dyslctl distill
    torchrun --nproc-per-node 4 -m dyslctl distill                        # on CPUs too, over gloo

On CPUs torchrun only: ``accelerate launch --cpu`` starts one process, whatever ``--num_processes`` says.

The backbone is frozen and whole in every process; what travels is the gradient of the few modules that learn. A process
that no launcher started is alone: rank 0 of 1. The leader, rank 0, collects the states and writes every file; the
others read them, so processes on several machines need the run directory on a file system that they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

from dyslctl.data.optional import require
from dyslctl.errors import EnvironmentMismatch

PATIENCE = timedelta(days=2)
"""How long processes wait for the leader: it may play episodes for hours."""


@contextmanager
def together(device: str) -> Iterator[None]:
    """Join the other processes if a launcher started this one as one of many; afterwards each is alone again.

    Args:
        device: Where each process computes, as torch names it; ``cuda`` is then this process's own GPU.

    Raises:
        EnvironmentMismatch: If accelerate is not installed, or the processes cannot be joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    accelerate = require("accelerate", "training with several processes", extra="distributed")
    try:
        accelerate.PartialState(cpu=torch.device(device).type == "cpu", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EnvironmentMismatch(
            f"the {os.environ['WORLD_SIZE']} processes cannot be joined on device {device}: {error}",
            hint="start as many processes a machine as it has GPUs, or use --set model.device=cpu",
        ) from error
    yield
    # Not after an error: a process that waits for the others here could not end, and its launcher not end them.
    distributed.destroy_process_group()


def rank() -> int:
    """This process's number, 0 if it is alone."""
    return distributed.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _joined() else 1


def leads() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return rank() == 0


def wait() -> None:
    """Until every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace ``tensors``, of one dtype on one device, by their means over the processes, in one message."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    means = torch.split(flat / world_size(), [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def average_numbers(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The means of ``numbers`` over the processes, which meet on ``device``."""
    if world_size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    average([tensor])
    return [float(number) for number in tensor.tolist()]


def align(tensors: Sequence[Tensor]) -> None:
    """Replace ``tensors`` by the leader's."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
