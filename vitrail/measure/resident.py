"""What a process holds of the machine's memory, libraries and their thread pools included, as the system tells it."""
import contextlib
import ctypes
import platform
import re


def resident_bytes() -> int | None:
    """Bytes that this process holds now; None where the system does not tell."""
    return _status("VmRSS")


def peak_bytes_resident() -> int | None:
    """The most that it has held since `forget_peak`, or since its start."""
    return _status("VmHWM")


def forget_peak() -> bool:
    """Gives back what is free, and starts the peak anew from what is held now; False where the system cannot."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")                                                 # of the kernel's documentation of proc
        return True
    return False


def _status(name: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            found = re.search(rf"^{name}:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
