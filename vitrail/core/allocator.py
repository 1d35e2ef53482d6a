"""What freed memory costs: given back to the system, its pages are fetched and cleared anew at the next call."""
import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4       # of glibc's malloc.h


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Within: the process keeps what it frees, as one does that has settled down; gives whether that could be had.

    Left alone, glibc gives large blocks back at once, so that a call which needs them again pays for clearing their
    pages, often more than for computing: a step in the time at sizes that depend on what ran before. Only glibc has
    this setting; elsewhere nothing changes, nor where the environment tells malloc what to do. Afterwards its defaults
    are back, and the memory is given back.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if told or platform.libc_ver()[0] != "glibc":
        yield False
        return
    libc = ctypes.CDLL(None)
    kept = all(libc.mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1),
                                                             (_TOP_PAD, 1 << 26)))
    try:
        yield kept
    finally:
        for what, value in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 1 << 17), (_TOP_PAD, 1 << 17)):
            libc.mallopt(what, value)
        libc.malloc_trim(0)
