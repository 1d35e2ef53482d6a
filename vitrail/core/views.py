"""A file's tensors before their bytes are read: where each lies, of which type and form."""
from dataclasses import dataclass
from math import prod

STORAGES = {"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
            "BFloat16Storage": "bfloat16", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16",
            "IntStorage": "int32", "LongStorage": "int64", "BoolStorage": "bool", "UntypedStorage": "uint8",
            "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"}
ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "int16": 2, "int32": 4,
            "int64": 8, "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8,
            "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1}


class Refused(Exception):
    """Why a file is not read: one sentence, and what to do. The reader adds the path."""


@dataclass(frozen=True)
class Named:
    """A global of Python, as a name."""

    name: str


@dataclass(frozen=True)
class Thing:
    """An object that was not built; what it was made of is forgotten."""

    name: str


@dataclass(frozen=True)
class Storage:
    """`numel` elements of `dtype`, kept in the file under `key`."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class View:
    """A tensor: an offset, sizes and strides (in elements of `dtype`) into a storage."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.size) * ITEMSIZE[self.dtype]
