"""FSDP2: each process holds a part of every tensor, and writes that part of a checkpoint.

The tensors go through torch.distributed.checkpoint into safetensors, each shard with its place in its header;
no `.metadata` (a pickle) is written, and none is read. Everything that is no tensor is in state.json.
"""
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from vitrail.core.errors import CheckpointError, TrainingError
from vitrail.nn import Stack
from vitrail.training.distributed import DistributedContext

Groups = Mapping[str, Mapping[str, Tensor]]


def shard(step: nn.Module, place: DistributedContext) -> FSDPModule:
    """Shards a step in place (Zhao et al., arXiv:2304.11277, as `fully_shard`): the parts of Stacks one by one, and
    the rest together with the step, whose forward and `evaluate` gather it."""
    mesh = init_device_mesh(place.device.type, (place.world,))
    for stack in step.modules():
        if isinstance(stack, Stack):
            for part in stack:
                if not any(isinstance(m, Stack) for m in part.modules()):
                    fully_shard(part, mesh=mesh)
    sharded: FSDPModule = fully_shard(step, mesh=mesh)
    register_fsdp_forward_method(step, "evaluate")
    return sharded


def write(folder: Path, groups: Groups) -> None:
    """This process's shards into a folder; all processes together. Raises TrainingError where one of them fails."""
    try:
        dcp.save(dict(_flat(groups)), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except (dcp.CheckpointException, OSError, RuntimeError) as e:
        raise TrainingError(f"no checkpoint: a shard was not written ({_short(e)}). Those before are intact.") from e


def listed(folder: Path) -> dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
    """The tensors of a sharded checkpoint: group -> name -> shape, kind. Reads headers. Raises CheckpointError."""
    _safe(folder)
    try:
        found = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as e:          # torch's reader trusts a header, and fails on a wrong one in every way there is
        raise CheckpointError(f"{folder} holds no readable shards ({_short(e)})") from None
    out: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
    for key, meta in found.items():
        group, dot, name = key.partition(".")
        if not dot or not isinstance(meta, TensorStorageMetadata):
            raise CheckpointError(f"{folder} holds {key[:80]!r}, which is no tensor of a run")
        out.setdefault(group, {})[name] = (tuple(meta.size), meta.properties.dtype)
    return out


def read(folder: Path, groups: Groups, *, alone: bool) -> None:
    """Fills the live tensors of the groups: whole ones or this process's parts. Raises CheckpointError.

    alone: this process reads for itself; else all processes read together.
    """
    _safe(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")      # that is what `alone` says
            dcp.load(dict(_flat(groups)), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except (Exception, dcp.CheckpointException) as e:       # as above
        raise CheckpointError(f"{folder} cannot be read: {_short(e)}") from None


def _flat(groups: Groups) -> dict[str, Tensor]:
    return {f"{group}.{name}": t for group, tensors in groups.items() for name, t in tensors.items()}


def _safe(folder: Path) -> None:
    """Only shards are read from here on."""
    if (folder / ".metadata").exists():
        raise CheckpointError(f"{folder} holds a .metadata file, which is a pickle that could run anything: not read")


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
