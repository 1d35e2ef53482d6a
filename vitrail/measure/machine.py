"""What a measurement was made on."""
import platform
import re
from typing import Any

import torch

import vitrail
from vitrail.core.extras import version


def machine(device: torch.device, *packages: str) -> dict[str, Any]:
    """The device, its name, threads and instruction set, and the versions of torch, vitrail and `packages`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
            "vitrail": vitrail.__version__, **{n: version(n) for n in ("torch", *packages)}}


def _processor() -> str:
    """The processor's kind, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
