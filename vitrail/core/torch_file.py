"""The two forms of file that torch.save writes, read without unpickling (see `prescan`).

The zip form (torch 1.6 and later) is an archive of uncompressed members: `data.pkl` and one `data/KEY` a storage.
The legacy form is five pickles (a magic number, a version, the machine, the object, the list of keys), then the
storages in that order, each after its length as 8 bytes.
"""
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from vitrail.core.prescan import MOST_BYTES, Scan
from vitrail.core.views import Refused, View

MOST_DIRECTORY = 8 << 20        # bytes of a zip archive's table of members: about 100,000 of them
SHARED = 64                     # how often over the tensors of one file may use its bytes (tied weights)
_MAGIC = 0x1950A86A20F9469CFC6C
_CHUNK = 4 << 20

Select = Callable[[Any], Mapping[str, View]]    # the tensors wanted, out of all that the file holds
Fill = Callable[[str, memoryview], None]        # a storage's key and where its bytes shall go


def read_torch(file: BufferedReader, size: int, select: Select) -> dict[str, Tensor]:
    """The selected tensors of a file of `size` bytes. Only the storages that they need are read. Raises Refused."""
    file.seek(0)
    tree, fill = _zip(file, size) if file.read(4) == b"PK\3\4" else _legacy(file, size)
    wanted = select(tree)
    if sum(v.nbytes for v in wanted.values()) > SHARED * size:
        raise Refused("its tensors share their data so often that copying them would exhaust memory. Do not use it.")
    bases: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, view in wanted.items():
        if (base := bases.get(view.storage.key)) is None:
            base = bases[view.storage.key] = torch.empty(view.storage.nbytes, dtype=torch.uint8)
            fill(view.storage.key, memoryview(base.numpy().data))
        dtype: torch.dtype = getattr(torch, view.dtype)         # a name of views.ITEMSIZE
        out[name] = torch.empty(0, dtype=dtype).set_(base.untyped_storage(), view.offset, view.size, view.stride)
    return out


def open_zip(file: BufferedReader, size: int) -> zipfile.ZipFile:
    """An archive whose table of members is of a sane length, without two members of one name. Raises Refused."""
    file.seek(max(0, size - 65557))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    directory = int.from_bytes(tail[at + 12:at + 16], "little") if at >= 0 else 0
    if directory == 0xFFFFFFFF and (at := tail.rfind(b"PK\6\6", 0, at)) >= 0:     # the larger form says it there
        directory = int.from_bytes(tail[at + 40:at + 48], "little")
    if directory > MOST_DIRECTORY:
        raise Refused(f"its archive lists its members in {directory} bytes, too many for weights. Do not use it.")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as e:      # zipfile answers hostile bytes with exceptions of many kinds, here and below
        raise Refused(f"its zip archive is damaged or cut short at {size} bytes. Get the file again.") from e
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise Refused("its archive holds two members of one name. It is damaged, or made to deceive: do not use it.")
    return archive


def _zip(file: BufferedReader, size: int) -> tuple[Any, Fill]:
    archive = open_zip(file, size)
    members = {m.filename: m for m in archive.infolist()}
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 or m.compress_size != m.file_size
           for m in members.values()):
        raise Refused("its members are compressed or encrypted, which torch.save never does. Do not use it.")
    if sum(m.file_size for m in members.values()) > size:
        raise Refused("its members claim more bytes than the file has. It is damaged, or made to exhaust memory.")
    tables = [n for n in members if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(tables) != 1:
        raise Refused("it is a zip archive, but not one that torch.save wrote. Is it the right file?")
    root = tables[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise Refused("it is a TorchScript program, which is run and not read. Save its state dict as safetensors.")
    if members[tables[0]].file_size > MOST_BYTES:
        raise Refused("its table of contents is longer than that of any file of weights. Do not use it.")
    if f"{root}byteorder" in members and _member(archive, f"{root}byteorder")[:6] != b"little":
        raise Refused("it was written on a big-endian machine. Save it again as safetensors.")
    scan = Scan()
    tree = scan.read(io.BytesIO(_member(archive, tables[0])))
    for storage in scan.storages.values():
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.file_size != storage.nbytes:
            found = "no" if member is None else str(member.file_size)
            raise Refused(f"it is incomplete: {found} bytes of data {storage.key[:40]!r}, which needs "
                          f"{storage.nbytes}. Get the file again.")
    return tree, lambda key, into: _fill_member(archive, f"{root}data/{key}", into)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception as e:
        raise Refused(f"its part {name[:80]!r} is damaged. Get the file again.") from e


def _fill_member(archive: zipfile.ZipFile, name: str, into: memoryview) -> None:
    """Reads to the very end, where zipfile compares the checksum."""
    try:
        with archive.open(name) as f:
            at = 0
            while part := f.read(_CHUNK):
                into[at:at + len(part)] = part
                at += len(part)
    except Exception as e:
        raise Refused(f"its part {name[:80]!r} is damaged. Get the file again.") from e
    if at != len(into):
        raise Refused(f"its part {name[:80]!r} ends after {at} of {len(into)} bytes. Get the file again.")


def _legacy(file: BufferedReader, size: int) -> tuple[Any, Fill]:
    file.seek(0)
    head, scan = io.BytesIO(file.read(MOST_BYTES)), Scan()
    if scan.read(head) != _MAGIC:
        raise Refused("it is a pickle, but not one that torch.save wrote. "
                      "Load it with the program that made it, and save its tensors as safetensors.")
    version, machine = scan.read(head), scan.read(head)
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("it was written by an unknown version of torch, or on a big-endian machine. "
                      "Save it again as safetensors.")
    tree, keys = scan.read(head), scan.read(head)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(scan.storages):
        raise Refused("its list of data does not fit its table of contents. Get the file again.")
    at, places = head.tell(), {}
    for key in map(str, keys):
        places[key] = at + 8
        at += 8 + scan.storages[key].nbytes
    if at != size:
        raise Refused(f"it has {size} bytes and should have {at}: it is {'cut short' if size < at else 'damaged'}. "
                      "Get the file again.")

    def fill(key: str, into: memoryview) -> None:
        file.seek(places[key] - 8)
        length = struct.unpack("<q", file.read(8))[0]
        if length != scan.storages[key].numel or file.readinto(into) != len(into):
            raise Refused(f"its data {key[:40]!r} have another length than its table of contents says. Get it again.")
    return tree, fill
