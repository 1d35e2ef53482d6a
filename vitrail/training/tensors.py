"""Tensors by name: those of a network, those of its optimizer, and files of them without a pickle."""
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vitrail.core.errors import CheckpointError, TrainingError

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
          torch.bool: "BOOL"}
_CHUNK = 1 << 24


def live(model: nn.Module) -> dict[str, Tensor]:
    """The network's own parameters and lasting buffers, in order, each once (tied ones under their first name)."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise TrainingError(f"the network keeps {name!r}, which is no tensor: such a state cannot be saved")
        if id(value) not in seen:
            seen.add(id(value))
            out[name] = value
    return out


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `exp_avg.<parameter>`; a parameter without gradient so far has none."""
    return {f"{kind}.{name}": value for name, p in model.named_parameters()
            for kind, value in optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; a plain one itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together on every process; a plain one itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that this process holds of them."""
    return sum(t.numel() * t.element_size() for t in map(local, tensors.values()))


def encoded(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece, so that no second copy of the tensors is held."""
    header: dict[str, dict[str, object]] = {}
    at = 0
    for name, t in tensors.items():
        if t.dtype not in _NAMES:
            raise TrainingError(f"a tensor of {t.dtype} cannot be saved: {name!r}")
        end = at + t.numel() * t.element_size()
        header[name] = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    small = bytearray(len(text).to_bytes(8, "little") + text)        # gathers what is not worth a write of its own
    for t in tensors.values():
        raw = t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        if len(small) + len(raw) <= _CHUNK:
            small += raw
            continue
        yield bytes(small)
        small.clear()
        yield from (raw[i:i + _CHUNK] for i in range(0, len(raw), _CHUNK))
    yield bytes(small)


def decoded(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError where it is none."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as e:
        raise CheckpointError(f"{path} is no readable safetensors file: {e}") from None


def check(found: Mapping[str, tuple[tuple[int, ...], torch.dtype]], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raises CheckpointError unless the names, shapes and kinds of number agree."""
    if missing := [n for n in wanted if n not in found]:
        raise CheckpointError(f"{what} lacks {len(missing)} of {len(wanted)} tensors, {missing[0]!r} first")
    if extra := [n for n in found if n not in wanted]:
        raise CheckpointError(f"{what} has {len(extra)} tensors that this network has not, {extra[0]!r} first")
    for name, (shape, dtype) in found.items():
        w = wanted[name]
        if shape != tuple(w.shape) or dtype != w.dtype:
            raise CheckpointError(f"{what}: {name!r} is {dtype} {shape}, and here it is {w.dtype} {tuple(w.shape)}")


@torch.no_grad()
def put(source: Tensor, target: Tensor) -> None:
    """A whole tensor into a live one, of which this process may hold only a part."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    local(target.detach()).copy_(local(source))
