"""What a measurement was made on."""
import platform
import re
from typing import Any

import torch

import vitrail
from vitrail.core.extras import version


def machine(device: torch.device, *packages: str) -> dict[str, Any]:
    """The device, its name, threads and instruction set, and the versions of torch, vitrail and `packages`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        processor("model name") or platform.processor() or platform.machine())
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
            "vitrail": vitrail.__version__, **{n: version(n) for n in ("torch", *packages)}}


def processor(field: str) -> str:
    """What the system tells of the first processor, as "model name"; empty where it tells nothing of that name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(rf"^{field}\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else ""
