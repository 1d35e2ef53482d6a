"""Forward passes of a model with seeded weights, and of timm's network with the same ones, in one process."""
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import vitrail
from vitrail.core import catalogue
from vitrail.core.card import Variant
from vitrail.core.errors import ModelError
from vitrail.core.extras import need
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.measure import timing
from vitrail.tasks.classification.model import Classifier
from vitrail.testing.noise import noise
from vitrail.weights import keys_of

CLASSES = 1000
TOLERANCE = 1e-5        # of the deviation of the logits
CPU = torch.device("cpu")


def images(batch: int, size: int, device: torch.device) -> Tensor:
    """The batch that is timed: (B, 3, size, size)."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch)).to(device)


def filled(name: str) -> Classifier:
    """A model filled with seeded noise, by the names of timm's layout where it has that, else of its first other."""
    model, layouts = vitrail.create_model(name, classes=CLASSES), catalogue.module_of(name).KEYS
    layout = "timm" if "timm" in layouts else next(iter(layouts), "vitrail")
    vitrail.load_weights(model, noise(in_layout(model, layout)), keys=layout)
    return model


def in_layout(model: Classifier, layout: str) -> dict[str, Tensor]:
    """Its tensors as that layout names and folds them."""
    table = keys_of(model, layout)
    return dict(model.state_dict()) if table is None else table.restore(model.state_dict())


def carry(state: Mapping[str, Tensor], module: nn.Module) -> nn.Module:
    """Gives a reference's network these tensors of its layout: all of its parameters, and the buffers that are not made
    from sizes. Raises ModelError where they are not its own."""
    lacking, surplus = module.load_state_dict(state, strict=False)
    if wrong := sorted({n for n, _ in module.named_parameters()}.intersection(lacking).union(surplus)):
        raise ModelError(f"{type(module).__name__} names its tensors otherwise in this version: {wrong[0]!r} of "
                         f"{len(wrong)}")
    return module.eval()


def counterpart(name: str, found: Variant[Any]) -> str:
    """timm's name of a model, read off the releases that timm keeps for it. Raises ModelError where there is none."""
    for release in found.weights:
        if release.keys == "timm" and (match := re.fullmatch(r"hf://timm/(\w+)(?:\.\w+)?/.+", release.source)):
            return match[1]
    raise ModelError(f"{name} has no counterpart in timm: no release of timm's is known to be of it")


def timm_network(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's network of that name, with tensors of its layout, in evaluation mode. Raises MissingExtra."""
    import_torchvision()
    network = need("timm").create_model(name, pretrained=False, num_classes=CLASSES)
    assert isinstance(network, nn.Module)
    return carry(state, network)


def pair(name: str, size: int, device: torch.device) -> dict[str, nn.Module]:
    """Ours and timm's, with the same seeded noise. Raises ModelError where their answers differ."""
    theirs_name, ours = counterpart(name, catalogue.variant_of(name)), filled(name)
    theirs = timm_network(theirs_name, in_layout(ours, "timm"))
    image = images(2, size, CPU)
    with torch.inference_mode():
        there, here = theirs(image), ours(image)
    apart = ((there - here).abs().max() / there.std()).item()
    if not apart <= TOLERANCE:                                          # nan is not
        raise ModelError(f"{name}: the answers differ from timm's by {apart:.2g} of their deviation: a time would "
                         "compare two things. Please report it")
    return {"vitrail": ours.to(device), "timm": theirs.to(device)}


def measure(name: str, batches: list[int], *, against: str, optimize: Sequence[str], rounds: int, size: int,
            device: torch.device) -> list[dict[str, Any]]:
    """A row a batch size: medians in milliseconds and, beside another side, the ratio with its quartiles. Of the
    precisions in `optimize`, how many times as long timm takes, or where it is not measured the model as it is."""
    size = size or catalogue.find(name).image
    sides = pair(name, size, device) if against else {"vitrail": vitrail.create_model(name).to(device)}
    rows = []
    for batch in batches:
        x = images(batch, size, device)
        things: dict[str, Any] = {side: partial(model, x) for side, model in sides.items()}
        fast = {p: vitrail.optimize(sides["vitrail"], x, precision=p) for p in optimize}    # type: ignore[arg-type]
        things |= {p: partial(model, x) for p, model in fast.items()}
        times = timing.interleaved({**things, "yardstick": timing.yardstick(device)}, rounds=rounds, device=device)
        ours, product = times["vitrail"], times["yardstick"]
        row: dict[str, Any] = {"model": name, "batch": batch, "size": size, "rounds": rounds, "ms": 1e3 * ours.median,
               "images_a_second": batch / ours.median, "products": ours.over(product)[0],
               "yardstick_gflops": timing.gflops(product.median)}
        if against:
            middle, low, high = times[against].over(ours)
            row |= {"against": against, "against_ms": 1e3 * times[against].median, "ratio": middle,
                    "ratio_quartiles": [low, high]}
        for precision, model in fast.items():
            middle, low, high = times[against or "vitrail"].over(times[precision])
            row.setdefault("optimised", {})[precision] = {
                "ms": 1e3 * times[precision].median, "ratio": middle, "ratio_quartiles": [low, high],
                "rewritten": model.report.rewritten, "left": model.report.left, "difference": model.report.difference}
        rows.append(row)
    return rows
