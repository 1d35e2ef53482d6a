"""Files of weights: read without running anything that they hold, written whole or not at all.

    read_tensors("vit.safetensors")
    read_tensors("deit.pth", inside="model")        # a file that holds more than its weights

Reads `.safetensors`; what torch.save writes (`.pth .pt .bin .ckpt .tar`), in both its forms; and `.npz`.
"""
import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vitrail.core.array_file import read_npz
from vitrail.core.errors import CheckpointError, VitrailError, did_you_mean
from vitrail.core.files import absent, atomic_file
from vitrail.core.torch_file import read_torch
from vitrail.core.views import Refused, Thing, View

TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *TORCH, ".npz")
MOST_HEADER = 32 << 20          # bytes of a safetensors header


def read_tensors(path: str | Path, *, inside: str = "", allow_nonfinite: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, by name, in the precision they were saved in.

    inside: the entry that holds the tensors ("model", "state_dict", "model_ema"), where the file has entries.
    allow_nonfinite: accept weights that are not numbers or infinite.
    Raises CheckpointError: what is wrong with the file, and what to do.
    """
    path = Path(path)
    with _explained(path):
        size = _examine(path)
        with path.open("rb") as file:
            tensors = _read(path, file, size, inside)
        _check_values(tensors, allow_nonfinite)
        return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The notes in the header of a safetensors file. Raises CheckpointError."""
    path = Path(path)
    with _explained(path):
        size = _examine(path)
        with path.open("rb") as file:
            header = _header(file, size)
    notes = header.get("__metadata__", {})
    return {str(k): str(v) for k, v in notes.items()} if isinstance(notes, dict) else {}


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *,
                  overwrite: bool = False) -> Path:
    """Writes a safetensors file, whole or not at all. Tensors that share memory are each written in full.

    Raises VitrailError where the place is taken or the disk is full, CheckpointError on a tensor without plain data.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, t in tensors.items():
        if t.layout != torch.strided or t.is_quantized or t.is_meta:
            raise CheckpointError(f"the tensor {name!r} is sparse, quantised or without data: it cannot be saved so")
        t = t.detach().cpu().resolve_conj().resolve_neg().contiguous()
        where = t.untyped_storage().data_ptr()
        plain[name] = t.clone() if where in seen else t
        seen.add(where)
    with atomic_file(path, overwrite=overwrite) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata=dict(metadata or {}))
        except safetensors.SafetensorError as e:
            raise VitrailError(f"{path}: not written: {e}. Is the disk full?") from e
    return Path(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Every way in which reading a file can fail, as a CheckpointError that names the file."""
    try:
        yield
    except Refused as e:
        raise CheckpointError(f"{path}: {e}") from e
    except PermissionError as e:
        raise CheckpointError(f"{path}: you may not read this. Change its permissions.") from e
    except OSError as e:
        raise CheckpointError(f"{path}: it cannot be read: {e.strerror or e}. Check the place and the name.") from e
    except (MemoryError, RuntimeError, ValueError, OverflowError) as e:
        raise CheckpointError(f"{path}: it is damaged or does not fit in memory ({type(e).__name__}). "
                              "Get the file again.") from e


def _examine(path: Path) -> int:
    """The size of a file that can be one of weights by its place, its name and its first bytes."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise Refused(absent(path)) from None
    if stat.S_ISDIR(found.st_mode):
        there = [n for n in sorted(os.listdir(path)) if n.endswith(SUFFIXES)]
        raise Refused("this is a folder. " + (f"Name a file in it: {', '.join(there[:5])}." if there else
                                              "It holds no file of weights."))
    if not stat.S_ISREG(found.st_mode):
        raise Refused("this is a device or a pipe. Name a file.")
    if path.suffix.lower() not in SUFFIXES:
        raise Refused(f"files of weights end in {', '.join(SUFFIXES)}. Rename it if it is one.")
    with path.open("rb") as f:
        start = f.read(1024)
    if not start:
        raise Refused("it is empty (0 bytes). Get the file again.")
    if start.startswith(b"version https://git-lfs"):
        raise Refused("it is only a pointer of git-lfs, not the weights. Run `git lfs pull` where it came from.")
    if start.lstrip()[:1] == b"<":
        raise Refused("it is a web page, not weights: the download was answered by a login or error page. "
                      "Download it by hand, and look at it.")
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or start[257:262] == b"ustar":
        raise Refused("it is a compressed or tar archive. Unpack it, and name the file inside.")
    if len(start) >= 16 and all(c in b"\t\n\r" or 32 <= c < 127 for c in start):
        raise Refused(f"it is text, not weights: it begins with {start[:40].decode()!r}. Is it the right file?")
    return found.st_size


def _read(path: Path, file: BufferedReader, size: int, inside: str) -> dict[str, Tensor]:
    start, suffix = file.read(9), path.suffix.lower()
    archive, pickled = start.startswith(b"PK\3\4"), start.startswith(b"\x80")
    if suffix in TORCH:
        if not archive and not pickled:
            hint = " It looks like safetensors: rename it." if start[8:] == b"{" else ""
            raise Refused(f"it is not what torch.save writes, or its beginning is damaged.{hint}")
        return read_torch(file, size, lambda tree: select(tree, inside))
    if inside:
        raise Refused(f"a file of this kind has no entries, so leave out inside={inside!r}.")
    if suffix == ".npz":
        return read_npz(file, size)
    if archive or (pickled and start[8:] != b"{"):
        raise Refused("its name says safetensors, but torch.save wrote it: rename it to .pth.")
    _header(file, size)
    try:
        with safetensors.safe_open(path, "pt") as held:
            names: list[str] = list(held.keys())
            # copies, because the originals are the file itself, and would follow what becomes of it
            return {name: held.get_tensor(name).clone() for name in names}
    except safetensors.SafetensorError as e:
        raise Refused(f"it is damaged: {str(e)[:200]}. Get the file again.") from e


def _header(file: BufferedReader, size: int) -> dict[str, Any]:
    """The header of a safetensors file, once its lengths add up to the file's."""
    file.seek(0)
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if not 2 <= length <= min(size - 8, MOST_HEADER):
        raise Refused(f"it has {size} bytes, and its header should have {length}: it is cut short, or not safetensors. "
                      "Get the file again.")
    try:
        header = json.loads(file.read(length))
        ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
            RecursionError) as e:
        raise Refused("its header is damaged. Get the file again.") from e
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise Refused(f"it has {size} bytes and should have {expected}: it is "
                      f"{'cut short' if size < expected else 'damaged'}. Get the file again.")
    return dict(header)


def select(tree: Any, inside: str) -> dict[str, View]:
    """The tensors of the entry `inside`, or of the whole where every entry is a tensor. Raises Refused."""
    where = "it"
    if inside:
        if not isinstance(tree, dict) or inside not in tree:
            entries = [str(k) for k in tree] if isinstance(tree, dict) else []
            raise Refused(f"it has no entry {inside!r}.{did_you_mean(inside, entries)} It holds {_list(tree)}.")
        tree, where = tree[inside], f"its entry {inside!r}"
    if not isinstance(tree, dict) or not tree:
        raise Refused(f"{where} holds no named tensors, but {_list(tree)}. Save the model's state dict.")
    others = [k for k, v in tree.items() if not isinstance(v, View)]
    tables = [k for k in others if isinstance(tree[k], dict) and any(isinstance(v, View) for v in tree[k].values())]
    if tables and not inside:
        raise Refused(f"it holds more than tensors: {_list(tree)}. Say which entry is wanted: inside={tables[0]!r}"
                      + "".join(f" or {k!r}" for k in tables[1:4]) + ".")
    if others or not all(isinstance(k, str) for k in tree):
        raise Refused(f"{where} holds more than named tensors: {_list({k: tree[k] for k in others} or tree)}. "
                      "Save the model's state dict.")
    return tree


def _list(tree: Any) -> str:
    if not isinstance(tree, dict):
        return _kind(tree)
    parts = [f"{str(k)[:60]!r} ({_kind(v)})" for k, v in list(tree.items())[:12]]
    return ", ".join(parts) + (f" and {len(tree) - 12} more" if len(tree) > 12 else "") if parts else "nothing"


def _kind(value: Any) -> str:
    if isinstance(value, View):
        return f"a tensor {list(value.size)}"
    if isinstance(value, dict):
        tensors = sum(isinstance(v, View) for v in value.values())
        return f"{tensors} tensors" if tensors and tensors == len(value) else f"a table of {len(value)}"
    if isinstance(value, Thing):
        return f"an object, {value.name}"
    return {str: "text", bytes: "bytes", bool: "yes or no", int: "a number", float: "a number", list: "a list",
            tuple: "a list", type(None): "nothing"}.get(type(value), "something else")


def _check_values(tensors: Mapping[str, Tensor], allow_nonfinite: bool) -> None:
    bad: list[str] = []
    for name, t in tensors.items():
        if t.dtype == torch.bool and t.numel():
            t.view(torch.uint8).clamp_(max=1)       # any other byte is a truth value that torch does not define
        if allow_nonfinite or not t.numel() or not (t.is_floating_point() or t.is_complex()):
            continue
        t = torch.view_as_real(t) if t.is_complex() else t.float() if t.element_size() == 1 else t
        low, high = torch.aminmax(t)                # both are NaN where one value is
        if not (torch.isfinite(low) and torch.isfinite(high)):
            bad.append(name)
    if bad:
        raise Refused(f"{len(bad)} of {len(tensors)} tensors hold values that are infinite or not numbers: "
                      f"{', '.join(repr(b) for b in bad[:5])}. The training that made it failed; "
                      "take an earlier file, or allow them (allow_nonfinite).")
