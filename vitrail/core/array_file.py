"""The `.npz` archives that numpy and JAX write: each member is a header in ASCII and the raw numbers.

The header is matched, never evaluated, and no array of objects (which would be a pickle) is read.
"""
import re
import struct
import zipfile
from io import BufferedReader
from math import prod

import numpy as np
import torch
from torch import Tensor

from vitrail.core.torch_file import open_zip
from vitrail.core.views import Refused

EXPANSION, SLACK = 4, 64 << 20      # compressed arrays may grow to 4 times the file and 64 MB; weights hardly shrink
_HEADER = re.compile(r"\{\s*'descr':\s*'([^']{1,8})',\s*'fortran_order':\s*(True|False),\s*"
                     r"'shape':\s*\(((?:\d{1,18},?\s*){0,32})\),?\s*\}\s*")
# V2 is how numpy writes the bfloat16 of JAX, a type that it does not know.
_DTYPES = {"<f4": torch.float32, "<f8": torch.float64, "<f2": torch.float16, "|i1": torch.int8, "|u1": torch.uint8,
           "<i2": torch.int16, "<i4": torch.int32, "<i8": torch.int64, "|b1": torch.bool, "<u2": torch.uint16,
           "<u4": torch.uint32, "<u8": torch.uint64, "|V2": torch.bfloat16, "<V2": torch.bfloat16,
           "<c8": torch.complex64, "<c16": torch.complex128}


def read_npz(file: BufferedReader, size: int) -> dict[str, Tensor]:
    """Every array of the archive under its name. Raises Refused."""
    archive = open_zip(file, size)
    members = archive.infolist()
    if sum(m.file_size for m in members) > EXPANSION * size + SLACK:
        raise Refused("its members would grow to many times the file. It is damaged, or made to exhaust memory.")
    out: dict[str, Tensor] = {}
    for m in members:
        if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused("its members are encrypted, or compressed in a way that numpy never uses. Do not use it.")
        if not m.filename.endswith(".npy"):
            raise Refused(f"it holds {m.filename[:80]!r}, which is no array. Is it the right file?")
        try:
            data = archive.read(m)
        except Exception as e:      # zlib, zipfile and codecs each have their own
            raise Refused(f"its part {m.filename[:80]!r} is damaged. Get the file again.") from e
        out[m.filename.removesuffix(".npy")] = _array(m.filename, bytearray(data))
    return out


def _array(name: str, data: bytearray) -> Tensor:
    if data[:6] != b"\x93NUMPY" or len(data) < 12 or data[6] not in (1, 2, 3):
        raise Refused(f"its part {name[:80]!r} is no numpy array. Is it the right file?")
    start = 10 if data[6] == 1 else 12
    length = struct.unpack_from("<H" if start == 10 else "<I", data, 8)[0]
    found = _HEADER.fullmatch(data[start:start + length].decode("latin-1")) if length <= 4096 else None
    if found is None:
        raise Refused(f"its part {name[:80]!r} holds Python objects or fields, or a damaged header. "
                      "Save plain arrays of numbers.")
    if (dtype := _DTYPES.get(found[1])) is None:
        raise Refused(f"its part {name[:80]!r} is of type {found[1]!r}, which vitrail does not read. "
                      "Save it as little-endian numbers.")
    shape = tuple(int(n) for n in found[3].replace(" ", "").split(",") if n)
    start += length
    if prod(shape) * dtype.itemsize != len(data) - start:
        raise Refused(f"its part {name[:80]!r} has {len(data) - start} bytes of numbers and should have "
                      f"{prod(shape) * dtype.itemsize}. Get the file again.")
    if not prod(shape):
        return torch.empty(shape, dtype=dtype)
    flat = torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=start).copy()).view(dtype)
    if found[2] == "True":
        return flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return flat.reshape(shape)
