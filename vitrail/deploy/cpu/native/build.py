"""Small kernels in C++ for processors with AVX-512: compiled at their first use where there is a compiler, and kept.

On such processors they are faster than what torch has; on others they gain nothing, and are not built. Nothing needs
them: whatever calls one has a way of its own beside it. `VITRAIL_NATIVE=0` goes without.
"""
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vitrail.core.errors import VitrailError
from vitrail.core.files import write_file
from vitrail.core.hub import cache_folder
from vitrail.core.processor import processor

SOURCES = Path(__file__).parent
COMPILE = ("-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-c")
LINK = ("-shared",)     # against no library of threads: the calls meet the one that torch has loaded
KERNELS = {kernel: struct.Struct(fields) for kernel, fields in {
    "attention": "qqqqqqqqqqqdddq", "norm": "qqqqqqddq", "bytes": "qqqdq", "linear": "qqqqqqqqqqqqqqqqqdq",
    "depthwise": "qqqqqqqqqqqqqqqqdq"}.items()}
"""The fields of each one's job: addresses and whole numbers, and floats."""
SECONDS = 300           # that a compiler may take
Numbers = ctypes.Array[ctypes.c_int64]
Given = Tensor | Numbers | int | float | None
_here = threading.local()


def has(kernel: str, dtype: torch.dtype) -> bool:
    """Whether there is such a kernel for numbers of this type."""
    return hasattr(library(), _name(kernel, dtype))


def call(kernel: str, dtype: torch.dtype, *given: Given) -> None:
    """Calls a kernel on torch's count of threads; tensors say where they lie. Raises MemoryError where it finds none
    for its work."""
    recorder = getattr(_here, "recorder", None)
    if recorder is not None:
        recorder.native(function(kernel, dtype), KERNELS[kernel], given)
        return
    job = KERNELS[kernel].pack(*map(plain, given))
    if function(kernel, dtype)(job, torch.get_num_threads()):
        raise MemoryError(f"there is no memory for the work of {kernel}")


def plain(given: Given) -> int | float:
    """The address of what lies in memory, or else the number."""
    if isinstance(given, Tensor):
        return given.data_ptr()
    return ctypes.addressof(given) if isinstance(given, ctypes.Array) else given or 0


def numbers(found: Sequence[int]) -> Numbers:
    """Whole numbers in memory."""
    return (ctypes.c_int64 * len(found))(*found)


@functools.cache
def function(kernel: str, dtype: torch.dtype) -> Any:
    """A kernel, that takes its job and the count of threads."""
    found = getattr(library(), _name(kernel, dtype))
    found.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    return found


@functools.cache
def runner() -> Any:
    """What calls many kernels: it takes their addresses and those of their jobs in turns, how many, and the count of
    threads."""
    found = library().run                               # type: ignore[union-attr]
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
    return found


class Recorder(Protocol):
    """Who is told of calls in their place."""

    def native(self, kernel: Any, fields: struct.Struct, given: Sequence[Given]) -> None: ...


@contextmanager
def told(recorder: Recorder) -> Iterator[None]:
    """Calls of kernels in this thread are not made, but told."""
    _here.recorder = recorder
    try:
        yield
    finally:
        _here.recorder = None


def _name(kernel: str, dtype: torch.dtype) -> str:
    return f"{kernel}_{str(dtype).removeprefix('torch.')}"


def library() -> ctypes.CDLL | None:
    """The kernels, or None where this machine has none."""
    return found()[0]


@functools.cache
def found() -> tuple[ctypes.CDLL | None, str]:
    """The kernels, or None, and in words what became of them."""
    capability = torch.backends.cpu.get_cpu_capability()
    if os.environ.get("VITRAIL_NATIVE", "1") == "0":
        return None, "not used: VITRAIL_NATIVE=0"
    if capability != "AVX512":
        return None, f"none: they are for AVX-512, and torch runs with {capability} here"
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++")
    if compiler is None:
        return None, "none: there is no C++ compiler (g++, or the one that CXX names)"
    try:
        return _loaded(compiler), f"built by {compiler}"
    except subprocess.CalledProcessError as e:          # an old compiler
        said = (e.stderr or b"").decode(errors="replace").strip().splitlines()
        return None, f"none: {compiler} fails: {said[0] if said else f'code {e.returncode}'}"
    except (OSError, subprocess.SubprocessError) as e:  # a full disk, another library of threads
        return None, f"none: {e}"


def _loaded(compiler: str) -> ctypes.CDLL:
    """Raises OSError, SubprocessError where it can be neither built nor loaded."""
    path = cache_folder() / "native" / f"{_digest(compiler)}.so"
    told = path.with_suffix(".sha256")                  # half of a library would end the process that loads it
    if told.is_file() and path.is_file() and told.read_text() == hashlib.sha256(path.read_bytes()).hexdigest():
        return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as folder:
        made = built(compiler, Path(folder))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, made.read_bytes(), overwrite=True)
            write_file(told, hashlib.sha256(made.read_bytes()).hexdigest(), overwrite=True)
        except (OSError, VitrailError):                 # what cannot be kept is made again next time
            return ctypes.CDLL(str(made))
    return ctypes.CDLL(str(path))


def built(compiler: str, folder: Path) -> Path:
    """The library, compiled into a folder. Raises OSError, SubprocessError."""
    sources = sorted(SOURCES.glob("*.cpp"))
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source, to: _run(compiler, *COMPILE, str(source), "-o", to), sources, objects))
    _run(compiler, *LINK, *objects, "-o", str(folder / "kernels.so"))
    return folder / "kernels.so"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS)


def _digest(compiler: str) -> str:
    """Of all that the library depends on: its sources, the compiler, and the processor, which may have changed under a
    folder that machines share."""
    looked_at = [processor(field) for field in ("model", "model name", "cpu family", "stepping", "flags")]
    told = hashlib.sha256(repr((COMPILE, LINK, torch.__version__, platform.machine(), platform.processor(),
                                looked_at)).encode())
    told.update(subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout)
    for source in sorted(SOURCES.glob("*.[ch]*")):
        told.update(source.read_bytes())
    return told.hexdigest()[:32]
