"""Changes of a model's structure that its config remembers, so that loading it makes them again.

An edit is a kind and its values, as plain JSON: `{"kind": "prune_heads", "module": "backbone.blocks.0.mix.fn",
"heads": [1, 4]}`. `make_edit` changes a model and notes the edit in its config; `load_model` builds the model as it was
first built, makes the edits in their order, and then reads the tensors, which fit.
"""
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ModelError, did_you_mean
from vitrail.core.lazy import Lazy

# kind -> (model, **values) -> None: changes the model in place, on any device, and draws no random numbers
_EDITS: dict[str, Callable[..., None]] = {"prune_heads": Lazy("vitrail.compress.heads:prune_heads")}


def register_edit(kind: str, change: Callable[..., None]) -> None:
    """Makes an edit of your own known: `change(model, **values)` changes the model in place.

    It must do the same for the same values, whatever the tensors hold: it is called again, on a new model, whenever
    an edited one is loaded. Raises ModelError where vitrail has an edit of this name.
    """
    if isinstance(_EDITS.get(kind), Lazy):
        raise ModelError(f"there is an edit {kind!r} already, which is vitrail's own: give yours another name")
    _EDITS[kind] = change


def make_edit(model: nn.Module, kind: str, **values: Any) -> None:
    """Changes a model in place, and notes the edit in its config.

    values: what the edit takes, as JSON has it. Raises ModelError for an unknown kind, for values that it does not
    take, and for a module without a config.

    >>> model = create_model("deit_ti16")
    >>> make_edit(model, "prune_heads", module="backbone.blocks.0.mix.fn", heads=[2])
    >>> model.config.edits[0]["kind"]
    'prune_heads'
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ModelError(f"edits are noted in the config of a model of vitrail's, and a {type(model).__name__} has "
                         "none")
    edit = {"kind": kind, **values}
    apply_edits(model, [edit])
    model.config = replace(config, edits=(*config.edits, edit))             # type: ignore[assignment]


def apply_edits(model: nn.Module, edits: Iterable[Mapping[str, Any]]) -> None:
    """Makes edits in their order, without noting them. Raises ModelError, naming the edit that cannot be made."""
    for edit in edits:
        values = {name: value for name, value in edit.items() if name != "kind"}
        kind = edit.get("kind")
        if kind not in _EDITS:
            raise ModelError(f"there is no edit {kind!r}.{did_you_mean(str(kind), _EDITS)} There are: "
                             f"{', '.join(_EDITS)}. One of your own must be registered first (register_edit, or "
                             "--plugin FILE.py)")
        try:
            _EDITS[str(kind)](model, **values)
        except TypeError as e:
            raise ModelError(f"the edit {kind!r} does not take {values}: {e}") from e
