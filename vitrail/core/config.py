"""What a model is, apart from its tensors: enough to build it again and to feed it right."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vitrail.core.card import IMAGENET_MEAN, IMAGENET_STD
from vitrail.core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the model's input: sides in pixels, means and deviations of values in [0, 1]."""

    size: tuple[int, int] = (224, 224)                      # height, width
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: float = 0.875                                     # share of the shorter side kept by the centre crop
    interpolation: str = "bicubic"                          # bicubic | bilinear | nearest


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The variant's name, the changes to its arguments, the token mixer that replaces its own, its labels and its
    preprocessing."""

    model: str
    task: str = "classification"
    changes: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()                            # one a class; "0", "1", ... where nobody named them
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    mixer: str = ""                                         # "": the backbone's own

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Raises CheckpointError where a field is missing, unknown or of the wrong kind."""
        try:
            p: dict[str, Any] = dict(data["preprocessing"])
            p = {k: tuple(v) if isinstance(v, list) else v for k, v in p.items()}
            preprocessing = Preprocessing(**p)
            changes = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(data["changes"]).items()}
            return cls(model=str(data["model"]), task=str(data["task"]), changes=changes,
                       labels=tuple(str(x) for x in data["labels"]), preprocessing=preprocessing,
                       mixer=str(data.get("mixer", "")))
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"this does not describe a vitrail model: {type(e).__name__}: {e}") from None
