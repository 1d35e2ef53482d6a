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
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import VitrailError
from vitrail.core.files import write_file
from vitrail.core.hub import cache_folder

SOURCES = Path(__file__).parent
COMPILE = ("-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-c")
LINK = ("-shared",)     # against no library of threads: the calls meet the one that torch has loaded
KERNELS = {"attention": "pppppppanaffn", "norm": "ppnnppffn", "bytes": "ppnfn"}
"""What each takes, but for the threads: pointers, arrays of whole numbers, whole numbers and floats."""
Numbers = ctypes.Array[ctypes.c_int64]
TYPES = {"p": ctypes.c_void_p, "a": ctypes.POINTER(ctypes.c_int64), "n": ctypes.c_int64, "f": ctypes.c_float}
SECONDS = 300           # that a compiler may take


def has(kernel: str, dtype: torch.dtype) -> bool:
    """Whether there is such a kernel for numbers of this type."""
    return hasattr(library(), _name(kernel, dtype))


def call(kernel: str, dtype: torch.dtype, *given: Tensor | Numbers | int | float | None) -> int:
    """Calls a kernel, with the addresses of tensors, on torch's count of threads."""
    answer: int = _function(kernel, dtype)(*[x.data_ptr() if isinstance(x, Tensor) else x for x in given],
                                           torch.get_num_threads())
    return answer


@functools.cache
def _function(kernel: str, dtype: torch.dtype) -> Any:
    function = getattr(library(), _name(kernel, dtype))
    function.argtypes = [TYPES[letter] for letter in KERNELS[kernel] + "n"]
    return function


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
    objects = []
    for source in sorted(SOURCES.glob("*.cpp")):
        objects.append(str(folder / f"{source.stem}.o"))
        _run(compiler, *COMPILE, str(source), "-o", objects[-1])
    _run(compiler, *LINK, *objects, "-o", str(folder / "kernels.so"))
    return folder / "kernels.so"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS)


def _digest(compiler: str) -> str:
    """Of all that the library depends on: its sources, the compiler, and the processor, which may have changed under a
    folder that machines share."""
    told = hashlib.sha256(repr((COMPILE, LINK, torch.__version__, platform.machine(), _processor())).encode())
    told.update(subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout)
    for source in sorted(SOURCES.glob("*.[ch]*")):
        told.update(source.read_bytes())
    return told.hexdigest()[:32]


def _processor() -> str:
    """What -march=native looks at."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = file.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model", "cpu family", "flags", "stepping")))
