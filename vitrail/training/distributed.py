"""Several processes as one: who is who, what is agreed on, and how gradients meet.

Started by torchrun, which gives RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Its standalone
restarts read addresses of dead processes from a shared store; TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 prevents that.
"""
import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.core.errors import SettingsError, TrainingError
from vitrail.training.settings import TrainSettings

_TIMEOUT = timedelta(seconds=120)       # a process that is silent for longer is lost
_PATIENCE = timedelta(minutes=30)       # for what one process does while the others wait: a large checkpoint


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device
    strategy: str = "single"            # single | ddp | fsdp
    waiting: dist.ProcessGroup | None = None

    @property
    def lead(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the processes, in place, equal on all of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def first(self, action: Callable[[], int], doing: str) -> int:
        """Process 0 does it and all learn the number it returns (at least 0).

        Where it fails there, its error is raised there, and a TrainingError on the others.
        """
        if self.world == 1:
            return action()
        answer = torch.tensor([-1])
        error: BaseException | None = None
        if self.lead:
            try:
                answer[0] = action()
            except BaseException as e:
                error = e
        dist.broadcast(answer, 0, group=self.waiting)
        if error is not None:
            raise error
        if answer.item() < 0:
            raise TrainingError(f"process 0 failed {doing}; its message says why")
        return int(answer.item())

    def follow_buffers(self, buffers: list[Tensor]) -> None:
        """Every process gets process 0's buffers (the running statistics of batch norms), each kind in one message."""
        if self.world == 1:
            return
        for kind in sorted({b.dtype for b in buffers}, key=str):
            same = [b for b in buffers if b.dtype == kind]
            flat = torch.cat([b.detach().reshape(-1) for b in same])
            dist.broadcast(flat, 0)
            for b, piece in zip(same, flat.split([b.numel() for b in same]), strict=True):
                b.detach().copy_(piece.view_as(b))


@contextlib.contextmanager
def joined(settings: TrainSettings) -> Iterator[DistributedContext]:
    """This process's place, with a process group where there are several. Raises SettingsError for a wrong device
    or strategy; the group is destroyed at the end, after all have met."""
    rank, local, world = (_number(n, d) for n, d in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    strategy = settings.strategy
    if strategy == "auto":
        strategy = "ddp" if world > 1 else "single"
    if strategy == "single" and world > 1:
        raise SettingsError(f"strategy = 'single', and torchrun started {world} processes: give ddp or fsdp")
    if settings.batch % (world * settings.accumulate):
        raise SettingsError(f"the batch of {settings.batch} samples cannot be shared by {world} processes x "
                            f"{settings.accumulate} micro-batches: give a batch that their product divides")
    if strategy == "fsdp" and settings.compile:
        raise SettingsError("compile and strategy = 'fsdp' do not go together: give one of them")
    device = pick_device(settings.device, local, world)
    if strategy == "single":
        yield DistributedContext(device=device)
        return
    if "RANK" not in os.environ:
        raise SettingsError(f"strategy = {strategy!r} needs torchrun: torchrun --nproc-per-node 2 -m vitrail train ...")
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as e:
        raise TrainingError(f"the {world} processes of this run did not meet: {e}") from e
    try:
        waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
        _meet(waiting)
        yield DistributedContext(rank=rank, world=world, device=device, strategy=strategy, waiting=waiting)
        _meet(waiting)              # nobody leaves while another still talks
    finally:
        dist.destroy_process_group()


def _meet(group: dist.ProcessGroup) -> None:
    try:
        dist.monitored_barrier(group, timeout=_TIMEOUT)
    except RuntimeError as e:
        raise TrainingError(f"a process of this run was lost: {str(e).splitlines()[0]}") from e


def wrapped(step: nn.Module, place: DistributedContext) -> nn.Module:
    """A step whose gradients are averaged over the processes.

    find_unused_parameters keeps the buckets as they are built: without it they are built anew after the first
    step, gradients are summed in another order after a resume, and three processes or more do not resume exactly.
    """
    if place.strategy != "ddp":
        return step
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")      # its successor is not in torch 2.6
        return DistributedDataParallel(step, device_ids=[place.device] if place.device.type == "cuda" else None,
                                       broadcast_buffers=False, find_unused_parameters=True)


def pick_device(name: str, local: int = 0, world: int = 1) -> torch.device:
    """"auto" is the best there is. Raises SettingsError for a device that is not there."""
    apple = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if apple and world == 1 else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"there is no device {name!r}: give auto, cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(apple)}
    if device.type == "cuda" and (device.index is None or world > 1):
        device = torch.device("cuda", local)
    if (device.index or 0) >= there.get(device.type, 0):
        raise SettingsError(f"the device {name!r} is not here: there are {there['cuda']} of cuda and {there['mps']} of "
                            "mps, and the cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise SettingsError(f"{name} of the environment is {text!r}, and must be a whole number")
    return int(text)
