"""What a run is made of besides its settings: versions, the state of the sources, the machine."""
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("vitrail", "torch", "torchvision", "safetensors", "numpy", "pillow", "datasets", "webdataset")


def session(*, step: int, world: int, strategy: str, device: torch.device) -> dict[str, Any]:
    """One start of a run, as run.json keeps it."""
    return {"started": datetime.now(UTC).isoformat(timespec="seconds"), "from_step": step,
            "command": sys.argv, "world": world, "strategy": strategy, "versions": versions(),
            "git": {"vitrail": git(Path(__file__).resolve().parents[1]), "here": git(Path.cwd())},
            "machine": machine(device)}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git(folder: Path) -> dict[str, Any] | None:
    """The commit that a folder is at and whether it differs from it; None where no repository tracks it."""
    def ask(*words: str) -> str:
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *words], capture_output=True, text=True,
                              timeout=20, check=True, stdin=subprocess.DEVNULL)
        return done.stdout.strip()
    try:
        if not ask("ls-files", "."):            # a library installed below somebody's project, say
            return None
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def machine(device: torch.device) -> dict[str, Any]:
    """What the bits of a run may depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"system": platform.platform(), "device": str(device), "device_name": name, "processors": os.cpu_count(),
            "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
