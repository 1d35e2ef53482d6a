"""vitrail: vision transformers built from their papers, proven equal to their references, trained and explained.

Nothing here imports torch until a name is used.
"""
import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    **dict.fromkeys(("list_models", "create_model", "save_model", "load_model", "card"), "vitrail.models"),
    **dict.fromkeys(("load_weights", "save_weights"), "vitrail.weights"),
    **dict.fromkeys(("train", "evaluate", "predict", "generate"), "vitrail.verbs"),
    **dict.fromkeys(("register_task", "Task"), "vitrail.core.task"),
    "register_model": "vitrail.core.catalogue",
    **dict.fromkeys(("record", "explain", "explain_tokens"), "vitrail.explanation.api"),
    "export": "vitrail.deploy.export",
    "optimize": "vitrail.deploy.optimize",
    "VitrailError": "vitrail.core.errors",
}
__all__ = ["Task", "VitrailError", "__version__", "card", "create_model", "evaluate", "explain", "explain_tokens",
           "export", "generate", "list_models", "load_model", "load_weights", "optimize", "predict", "record",
           "register_model", "register_task", "save_model", "save_weights", "train"]

if TYPE_CHECKING:
    from vitrail.core.catalogue import register_model
    from vitrail.core.errors import VitrailError
    from vitrail.core.task import Task, register_task
    from vitrail.deploy.export import export
    from vitrail.deploy.optimize import optimize
    from vitrail.explanation.api import explain, explain_tokens, record
    from vitrail.models import card, create_model, list_models, load_model, save_model
    from vitrail.verbs import evaluate, generate, predict, train
    from vitrail.weights import load_weights, save_weights


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vitrail' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
