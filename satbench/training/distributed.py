"""Several processes that train one network, each on its share of every batch, as torchrun starts them."""

import importlib
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from satbench.core.errors import BadInput, ReportedElsewhere
from satbench.methods.base import Processes, Step


class Group(Processes):
    """Every process of torch's default group."""

    def __init__(self) -> None:
        self.rank, self.count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def everywhere(self, values: Tensor, step: Step) -> Tensor:
        whole = values.new_zeros(len(step.batch_index), *values.shape[1:])
        whole[step.start : step.start + len(values)] = values
        torch.distributed.all_reduce(whole)
        return whole

    def mean(self, tensors: Sequence[Tensor], step: Step) -> list[Tensor]:
        share = len(step.x) / len(step.batch_index)
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors]) * share
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor).to(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def total(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        sums = torch.tensor(numbers, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(sums)
        return [float(number) for number in sums.tolist()]

    def wait(self) -> None:
        torch.distributed.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that torchrun started together with this one, and this one's device; alone without torchrun.

    NCCL joins GPUs, gloo everything else. The group ends with the block, unless it was there before.
    A `BadInput` or `OSError` inside the block stays itself in the first process that raises one; the others, which
    raise the same or lose the connection, raise `ReportedElsewhere`.
    """
    if torch.distributed.is_initialized():
        yield Group(), device
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(), device
        return
    if device.type == "cuda":
        place = int(os.environ["LOCAL_RANK"])
        if place >= torch.cuda.device_count():
            raise BadInput(
                f"process {place} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "give torchrun a smaller --nproc-per-node"
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    # Its functions take the group of the time of their import as a default. DDP imports it, so that the threads of the
    # group would never end, which may abort the process at its exit (https://github.com/pytorch/pytorch/issues/190489).
    importlib.import_module("torch.distributed.nn")
    store, rank, count = next(rendezvous("env://"))
    # torchrun keeps one store for all restarts, in which the addresses of dead processes would be found again
    store = PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield Group(), device
    except (BadInput, OSError):
        if store.add("refusals", 1) > 1:
            raise ReportedElsewhere("another process has raised an error first") from None
        raise
    except RuntimeError:  # of a collective that another process has left
        if store.add("refusals", 0):
            raise ReportedElsewhere("another process has raised an error") from None
        raise
    finally:
        torch.distributed.destroy_process_group()


def share_gradients(model: nn.Module, device: torch.device, processes: Processes) -> nn.Module:
    """The model whose backward pass averages gradients over the processes, in one all-reduce; itself for one process.

    Buffers are left to the trainer: DDP would overwrite them at every forward pass, also between the two of one loss.
    """
    if processes.count == 1:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    at_forward = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    settings: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, at_forward: False}
    return DistributedDataParallel(model, **settings)


def gradients_kept(model: nn.Module | None) -> AbstractContextManager[None]:
    """Backward passes inside add to this process's own gradients; the first one after it averages their sum."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
