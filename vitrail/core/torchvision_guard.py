"""The one door through which torchvision is imported.

torchvision's packaged binary often does not load beside another build of torch. Its Python parts work without
it, but its import stops at the first description of an operator that the binary would have brought. Here those
descriptions are passed over, only while torchvision is imported and only for operators that are truly missing.
vitrail itself calls no compiled operator of torchvision.
"""
import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vitrail.core.errors import MissingExtra

_lock = threading.RLock()


def import_torchvision() -> ModuleType:
    """torchvision, importable whether or not its binary loads. Call it before `import torchvision` or `import timm`.

    Cheap when called again. Raises MissingExtra where torchvision is not installed or does not import.
    """
    found = sys.modules.get("torchvision.transforms.v2")
    if found is not None and hasattr(found, "Compose"):
        return sys.modules["torchvision"]
    import torch

    with _lock:
        try:
            try:
                return _load()
            except RuntimeError:                            # "operator torchvision::nms does not exist"
                return _load_without_operators()
        except ModuleNotFoundError as e:
            raise MissingExtra(f"this needs torchvision, and the module {e.name!r} is not installed: "
                               "pip install torchvision") from None
        except (ImportError, OSError, RuntimeError, AttributeError) as e:
            raise MissingExtra(f"torchvision is installed but does not import beside torch {torch.__version__} "
                               f"({type(e).__name__}: {e}); install the torchvision made for this torch") from e


def _load() -> ModuleType:
    importlib.import_module("torchvision.transforms.v2")
    return sys.modules["torchvision"]


def _load_without_operators() -> ModuleType:
    import torch.library

    real = torch.library.register_fake
    torch.library.register_fake = _lenient(real)
    try:
        return _load()
    finally:
        torch.library.register_fake = real


def _lenient(real: Callable[..., Any]) -> Callable[..., Any]:
    """torch.library.register_fake that leaves a missing operator of torchvision without its description."""
    import torch

    def register_fake(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::") and not args:
            name = op.removeprefix("torchvision::").partition(".")[0]
            if not hasattr(torch.ops.torchvision, name):
                return lambda description: description
        return real(op, *args, **kwargs)

    return register_fake
