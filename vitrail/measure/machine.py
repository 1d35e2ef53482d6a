"""What a measurement was made on."""
import platform
from typing import Any

import torch

import vitrail
from vitrail.core.extras import version
from vitrail.core.processor import processor


def machine(device: torch.device, *packages: str) -> dict[str, Any]:
    """The device, its name, threads and instruction set, and the versions of torch, vitrail and `packages`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        processor("model name") or platform.processor() or platform.machine())
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
            "vitrail": vitrail.__version__, **{n: version(n) for n in ("torch", *packages)}}
