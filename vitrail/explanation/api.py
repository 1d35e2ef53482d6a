"""`vitrail.explain` and `vitrail.record`: what an answer rests on, in the frame of the picture."""
import inspect
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vitrail.core.errors import ExplainError, did_you_mean
from vitrail.core.files import atomic_file
from vitrail.core.task import task_of
from vitrail.explanation import drawing, methods
from vitrail.explanation.attention_grid import attention_grid
from vitrail.explanation.explained import config_of, explained
from vitrail.explanation.picture import prepare
from vitrail.explanation.record import Layer, Recording, record
from vitrail.explanation.sequences import TokenExplanation, TokenTarget, explain_tokens
from vitrail.nn import Visible

__all__ = ["METHODS", "Explanation", "Layer", "Recording", "TokenExplanation", "TokenTarget", "attention_grid",
           "explain", "explain_image", "explain_tokens", "record"]

METHODS = ("relevance", "rollout", "attention", "gradcam")


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """One image's answer and what it rests on.

    map:    float32 (h, w), a value for each image token, as the method defines it.
    target: what was explained, such as the number of a class; label: its name; score: how sure the model is of it.
    box:    what of the picture the model saw: top, left, bottom, right, in the picture's pixels.
    """

    ARRAYS = ".npy"                     # the suffix under which `save` writes the numbers themselves

    method: str
    map: NDArray[np.float32] = field(repr=False)
    target: Any
    label: str
    score: float
    box: tuple[float, float, float, float]
    pixels: Tensor = field(repr=False)                      # uint8 (3, H, W), the picture itself
    token: tuple[float, float] = field(repr=False)          # height and width of a token, in the picture's pixels

    def heat(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The map over the whole picture, at `size` (height, width) or the picture's own: float32, smooth.

        What lies outside `box` the model never saw; it is nan.
        """
        H, W = self.pixels.shape[1:]
        rows, columns = size or (H, W)
        top, left, bottom, right = self.box
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) * H / rows
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * W / columns
        # the map may reach over the edge of what the model saw, where patches were padded
        across = [2 * (at - start) / (tokens * side) - 1 for at, start, tokens, side
                  in ((x, left, self.map.shape[1], self.token[1]), (y, top, self.map.shape[0], self.token[0]))]
        at = torch.stack(torch.meshgrid(across[0], across[1], indexing="xy"), -1)[None].float()
        smooth = F.grid_sample(torch.from_numpy(self.map)[None, None], at, padding_mode="border", align_corners=False)
        inside = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
        return smooth[0, 0].where(inside, torch.nan).numpy()

    def overlay(self, *, longest: int = 1024) -> Image.Image:
        """The picture with the heat on it, RGB; its longer side `longest` pixels at most. Unseen borders are dark."""
        H, W = self.pixels.shape[1:]
        scale = min(1.0, longest / max(H, W))
        if max(H, W) * scale < drawing.SMALL:               # an 8 x 8 digit would be a speck
            scale = drawing.SMALL / max(H, W)
        size = max(1, round(H * scale)), max(1, round(W * scale))
        return drawing.overlay(self.pixels, self.heat(size))

    def summary(self) -> dict[str, Any]:
        """How what was explained, and how sure the model is of it, as JSON."""
        return {"method": self.method, "label": self.label, "probability": self.score}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """The overlay as a picture, or the map as .npy, after the path's suffix. Raises ExplainError, VitrailError."""
        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".jpg", ".jpeg", ".webp", ".npy"):
            raise ExplainError(f"{path}: an explanation is saved as .png, .jpg, .webp (the overlay) or .npy (the map)")
        with atomic_file(path, overwrite=overwrite) as temporary:
            if suffix == ".npy":
                np.save(temporary, self.map)
            else:
                self.overlay().save(temporary)
        return Path(path)


def explain(model: nn.Module, subject: Any, **options: Any) -> "Explanation | TokenExplanation":
    """What in an input an answer rests on: of an image a map, of a text what each word holds of the others.

    subject: what the model answers about, as its task takes it: an image, or a text. options: those of the form of
    explanation, which for images are `explain_image`'s (method, target, layer, head), for texts method and target.

    Raises ExplainError for what is not a model of vitrail's and for an option of another form of explanation,
    ModelError for a model whose task explains nothing.

    Example:
        >>> explanation = explain(model, "cat.jpg", method="rollout")
        >>> explanation.label, explanation.map.shape
        ('tabby', (14, 14))
        >>> explanation.save("cat-rollout.png")
    """
    config = config_of(model)
    function = task_of(config).require("explain")
    parameters = inspect.signature(function).parameters
    known = list(parameters)[2:]                            # behind the model and the subject
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in known and not takes_all:
            raise ExplainError(f"{config.model} is not explained by {name}.{did_you_mean(name, known)} Its "
                               f"explanations take {', '.join(known)}")
    explanation: Explanation | TokenExplanation = function(model, subject, **options)
    return explanation


def explain_image(model: nn.Module, image: Any, *, method: str = "relevance", target: Any = None,
                  layer: int | str | None = None, head: int | None = None) -> Explanation:
    """What in the image an answer rests on.

    image:  a path, the bytes of a file, PIL image, array, uint8 tensor (3, H, W), or a prepared float tensor (C, h, w)
            or (1, C, h, w).
    method: "relevance" (arXiv:2103.15679), "rollout" (arXiv:2005.00928), "attention" (one layer's look, as it is) or
            "gradcam" (arXiv:1610.02391).
    target: what is explained, as the model's task numbers or names it (a class); the likeliest unless given. Rollout
            and attention are the same for all targets that are read off the same token.
    layer:  for attention and gradcam: a number or a name. head: for attention: one head, the mean unless given.

    Raises ExplainError on an unknown method or target, on one that the model's form does not allow, and on a model
    that does not answer about images; DataError on what is not an image.
    """
    if method not in METHODS:
        raise ExplainError(f"there is no method {method!r}.{did_you_mean(method, METHODS)} There are: "
                           f"{', '.join(METHODS)}.")
    config = config_of(model)
    subject = explained(model, target)
    if method != "gradcam" and not any(isinstance(part, Visible) for part in model.modules()):
        raise ExplainError(f"{config.model} has no attention, so {method!r} does not apply; method='gradcam' does")
    if layer is not None and method not in ("attention", "gradcam"):
        raise ExplainError(f"{method!r} goes through all layers: layer= is for 'attention' and 'gradcam'")
    if head is not None and method != "attention":
        raise ExplainError(f"{method!r} goes through all heads: head= is for 'attention'")
    picture = prepare(image, config.spec.preprocessing)
    first = next(model.parameters())
    given = picture.input.to(first.device, first.dtype)
    if method == "attention":
        attribution = methods.attention(subject, given, layer=layer, head=head)
    elif method == "gradcam":
        attribution = methods.gradcam(subject, given, layer=layer)
    else:
        attribution = (methods.relevance if method == "relevance" else methods.rollout)(subject, given)
    map_ = attribution.map[0].float().cpu()
    with torch.no_grad():
        _, names, confidences = task_of(config).require("targets")(model, attribution.output, target)
        scores = subject.scores(attribution.output, attribution.target)
    confidence = float(confidences[0])
    if not (math.isfinite(confidence) and scores.isfinite().all() and map_.isfinite().all()):
        raise ExplainError(f"{config.model} answers this image with values that are not finite: "
                           "its weights are damaged")
    top, left, bottom, right = picture.box
    h, w = picture.input.shape[-2:]
    unit = (bottom - top) / h, (right - left) / w
    sides = [side * scale for side, scale in zip(_token(model.backbone, attribution.map, (h, w)), unit, strict=True)]
    return Explanation(method=method, map=map_.numpy(), target=_of_one(attribution.target), label=names[0],
                       score=confidence, box=picture.box, pixels=picture.pixels, token=(sides[0], sides[1]))


def _of_one(target: Any) -> Any:
    """A target of a batch of one image: the number itself, where it stands in a tensor (1,)."""
    return target[0].item() if isinstance(target, Tensor) and target.shape == (1,) else target


def _token(backbone: Any, map_: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a token, in pixels of the model's input: a stride of the backbone, where one fits."""
    grid = tuple(map_.shape[1:])
    for stride in backbone.strides:
        if tuple(-(-side // stride) for side in size) == grid:
            return stride, stride
    return size[0] / grid[0], size[1] / grid[1]
