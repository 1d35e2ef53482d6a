"""The catalogue at a size for tests: every structure once, and shallow."""
import functools
import re
from typing import Any

import torch

import vitrail
from vitrail.core.catalogue import entries, names, variant_of
from vitrail.nn import BatchNorm, Visible
from vitrail.tasks.classification.model import Classifier

NAMES = names("backbone")


def shallow(name: str) -> dict[str, Any]:
    """Changes that cut the depth and keep every kind of part."""
    settings = variant_of(name).settings()
    changes: dict[str, Any] = {}
    if "depth" in settings:
        changes["depth"] = 2
    if "depths" in settings:
        changes["depths"] = tuple(min(d, 2) for d in settings["depths"])
    if "local" in settings:
        changes["local"] = 1
    if settings.get("plain"):
        changes["plain"] = 1
    return changes


def build(name: str, *, classes: int = 7, **changes: Any) -> Classifier:
    """A shallow model with seeded weights, none of them zero, in evaluation mode."""
    torch.manual_seed(0)
    model = vitrail.create_model(name, classes=classes, **{**shallow(name), **changes})
    generator = torch.Generator().manual_seed(1)
    shut = [part.weight for part in model.modules() if isinstance(part, BatchNorm) and not part.weight.any()
            if any(isinstance(other, Visible) for other in model.modules())]
    with torch.no_grad():
        for parameter in model.parameters():        # zero heads, gains and tables hide what stands behind them
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        for weight in shut:                         # of a branch that attends, which is lost to rounding otherwise
            weight += 0.5
    return model


@functools.cache
def structures() -> tuple[str, ...]:
    """The smallest variant of each structure: the set of its tensors' names, indices aside."""
    found: dict[tuple[str, frozenset[str]], str] = {}
    for name in sorted(NAMES, key=lambda n: (entries()[n].params, entries()[n].gflops)):
        with torch.device("meta"):
            keys = vitrail.create_model(name, **shallow(name)).state_dict()
        found.setdefault((entries()[name].module, frozenset(re.sub(r"\d+", "#", k) for k in keys)), name)
    return tuple(found.values())


STRUCTURES = structures()
