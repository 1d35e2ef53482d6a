"""`vitrail doctor`: what works on this machine, and what would unlock the rest."""
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import vitrail
from vitrail.cli.command import Command
from vitrail.cli.options import NoOptions
from vitrail.cli.output import pairs, print_json, print_line
from vitrail.core.errors import MissingExtra
from vitrail.core.extras import EXTRAS, version
from vitrail.core.hub import cache_folder

NEEDED = ("torch", "torchvision", "numpy", "scipy", "pillow", "safetensors", "huggingface_hub", "filelock", "rich",
          "tensorboard", "matplotlib", "jinja2")


def examine() -> dict[str, Any]:
    """Everything that the command reports, as JSON has it. `ok` is False where a needed part does not work."""
    packages = {name: version(name) for name in NEEDED}
    torch = _torch()
    return {"vitrail": vitrail.__version__, "python": platform.python_version(), "executable": sys.executable,
            "system": platform.platform(), "processors": _processors(),
            "torch": torch, "torchvision": _torchvision(torch), "kernels": _kernels(torch), "packages": packages,
            "cache": _cache(cache_folder()),
            "offline": [v for v in ("VITRAIL_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(v)],
            "extras": [{"name": x.name, "installed": x.versions(), "missing": x.missing(), "unlocks": x.unlocks,
                        "install": f"pip install 'vitrail[{x.name}]'"} for x in EXTRAS],
            "ok": all(packages.values()) and torch.get("error") is None}


def _processors() -> int:
    """Those that this process may use, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as e:
        return {"error": f"{type(e).__name__}: {e}"}
    devices = [{"device": "cpu",
                "name": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}]
    for at in range(torch.cuda.device_count()):
        devices.append({"device": f"cuda:{at}", "name": torch.cuda.get_device_name(at)})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple"})
    return {"version": torch.__version__, "devices": devices, "threads": torch.get_num_threads(), "error": None}


def _torchvision(torch: dict[str, Any]) -> dict[str, Any]:
    """How it loads: whole, or through the guard, which does without its compiled operators (vitrail calls none)."""
    if torch.get("error"):
        return {"state": "not tried, for torch does not import"}
    from vitrail.core.torchvision_guard import import_torchvision
    try:
        found = import_torchvision()
    except MissingExtra as e:
        return {"state": "missing", "error": str(e)}
    from torch import ops
    whole = hasattr(ops.torchvision, "nms")
    return {"state": "whole" if whole else "guarded", "version": found.__version__,
            "note": "" if whole else "its compiled operators do not load beside this torch; vitrail calls none of them"}


def _kernels(torch: dict[str, Any]) -> str:
    """What became of the native kernels; the first time they are built."""
    if torch.get("error"):
        return "not tried, for torch does not import"
    from vitrail.deploy.cpu.native.build import found
    return found()[1]


def _cache(folder: Path) -> dict[str, Any]:
    """The folder of downloads and whether a file can be written there; nothing is left behind."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as e:
        return {"folder": str(folder), "writable": False, "error": f"{nearest}: {e.strerror or e}; set VITRAIL_CACHE"}
    return {"folder": str(folder), "writable": True, "error": ""}


def _advice(cuda: int) -> str:
    many = "several GPUs" if cuda > 1 else "several processes"
    return (f"{many}: torchrun --standalone --nproc-per-node {max(2, cuda)} -m vitrail train ...\n"
            "  with --max-restarts: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or a restart waits for ever")


def run(a: NoOptions, *, json: bool) -> int:
    found = examine()
    cuda = sum(d["device"].startswith("cuda") for d in found["torch"].get("devices", ()))
    if json:
        print_json({**found, "torchrun": _advice(cuda)})
        return 0 if found["ok"] else 1
    torch, vision, cache = found["torch"], found["torchvision"], found["cache"]
    seen = " ".join(filter(None, (vision.get(k) for k in ("version", "state", "note", "error"))))
    pairs({"vitrail": found["vitrail"], "python": f"{found['python']}  {found['executable']}",
           "system": f"{found['system']}, {found['processors']} processors for this process",
           "torch": torch.get("version") or f"DOES NOT IMPORT: {torch['error']}",
           **{f"  {d['device']}": d["name"] for d in torch.get("devices", ())},
           "torchvision": seen,
           "kernels": found["kernels"],
           "cache": f"{cache['folder']}  " + ("writable" if cache["writable"] else f"NO: {cache['error']}")})
    if missing := [n for n, v in found["packages"].items() if not v]:
        print_line(f"MISSING      {', '.join(missing)}: pip install vitrail brings them")
    if found["offline"]:
        print_line(f"offline      by {' and '.join(found['offline'])}")
    print_line("\nextras")
    for extra in found["extras"]:
        there = " ".join(f"{n} {v}" for n, v in extra["installed"].items())
        state = f"missing {', '.join(extra['missing'])}: {extra['install']}" if extra["missing"] else there
        print_line(f"  {extra['name'].ljust(10)}  {extra['unlocks']}\n  {'':10}  {state}")
    print_line(f"\n{_advice(cuda)}")
    return 0 if found["ok"] else 1


COMMAND = Command(about="What of vitrail works on this machine, and what would unlock the rest.", settings=NoOptions,
                  run=run)
