"""What a model is, apart from its tensors: enough to build it again and to feed it right. Imports no torch."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from vitrail.core.card import IMAGENET_MEAN, IMAGENET_STD
from vitrail.core.errors import CheckpointError

FORMAT = "vitrail-2"
FIRST_FORMATS = ("vitrail-1", "vitrail-text-1")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the model's input: sides in pixels, means and deviations of values in [0, 1]."""

    size: tuple[int, int] = (224, 224)                      # height, width
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 0.875                                     # share of the shorter side kept by the centre crop
    interpolation: str = "bicubic"                          # bicubic | bilinear | nearest

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises TypeError or ValueError where a field is unknown or of the wrong kind."""
        return cls(**{name: as_tuple(value) for name, value in dict(data).items()})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What `load_model` builds a saved model from.

    model:     the variant's name.
    task:      the name of the task whose `build` made it.
    arguments: those of the variant's constructor that were given.
    mixer:     the token mixer that replaces the backbone's own, "" for none.
    edits:     changes of structure, replayed in this order after the model was built (`vitrail.compress.edits`).
    spec:      what the task needs besides: classes and preprocessing, a vocabulary, ...

    >>> create_model("vit_s16", depth=6).config.arguments["depth"]
    6
    """

    model: str
    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mixer: str = ""
    edits: tuple[Mapping[str, Any], ...] = ()
    spec: Any = None

    def to_json(self) -> dict[str, Any]:
        """Plain values. The order of the keys is that of the fields."""
        return {"model": self.model, "task": self.task, "arguments": dict(self.arguments), "mixer": self.mixer,
                "edits": [dict(edit) for edit in self.edits],
                "spec": None if self.spec is None else self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A config of any format that vitrail has written. Its task reads its spec.

        Raises CheckpointError where a field is missing, unknown or of the wrong kind; ModelError for an unknown task.
        """
        from vitrail.core.task import find_task         # a task's declaration needs this module
        current = upgraded(data)
        try:
            task = find_task(str(current["task"]))
            arguments = {str(name): as_tuple(value) for name, value in dict(current["arguments"]).items()}
            edits = tuple(dict(edit) for edit in current.get("edits", ()))
            return cls(model=str(current["model"]), task=task.name, arguments=arguments, edits=edits,
                       mixer=str(current.get("mixer", "")), spec=task.spec.from_json(current["spec"]))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(f"this does not describe a vitrail model: {type(e).__name__}: {e}") from None


def as_tuple(value: Any) -> Any:
    """A list as a tuple, at any depth: JSON knows lists only, and constructors take tuples."""
    if isinstance(value, list):
        return tuple(as_tuple(item) for item in value)
    return value


def upgraded(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config of the first formats in the form of today's: there, what a task needs stood beside the rest.

    Raises CheckpointError for anything that vitrail did not write.
    """
    written = data.get("format", FORMAT)
    if written == FORMAT:
        return data
    if written in FIRST_FORMATS:
        return {"format": FORMAT, "model": data.get("model"), "task": data.get("task"), "mixer": data.get("mixer", ""),
                "arguments": data.get("changes"), "spec": {**data, "kind": data.get("task")}}
    raise CheckpointError(f"this is of the format {str(written)[:40]!r}, and this version of vitrail reads {FORMAT!r} "
                          "and the formats before it")
