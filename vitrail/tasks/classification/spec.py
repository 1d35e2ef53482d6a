"""What a classifier remembers beside its tensors: its classes, and how an image is prepared for it."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from vitrail.core.card import Figures, Variant, Weights
from vitrail.core.config import Preprocessing
from vitrail.core.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class ClassificationSpec:
    """labels: one a class, in the order of the logits; "0", "1", ... where nobody named them."""

    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def classes(self) -> int:
        return len(self.labels)

    def constructor_arguments(self, variant: Variant[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A backbone's arguments do not depend on the classes."""
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(labels=tuple(str(label) for label in data["labels"]),
                   preprocessing=Preprocessing.from_json(data["preprocessing"]))


def make_spec(name: str, variant: Variant[Any], arguments: Mapping[str, Any], release: Weights | None, *,
              classes: int | None = None, labels: Sequence[str] = (),
              preprocessing: Preprocessing | None = None) -> ClassificationSpec:
    """The spec of a new classifier.

    classes: how many; or `labels`, their names. As many as the variant was published with where neither is said.
    preprocessing: the release's unless given, or the usual one at the size that the model is built for.

    Raises ModelError where classes and labels contradict each other, and for a variant that takes no images.
    """
    if not isinstance(variant.figures, Figures):
        raise ModelError(f"{name} does not take images, and so cannot tell classes of them apart")
    if classes is None:
        classes = len(labels) or variant.figures.classes
    if classes < 1 or (labels and len(labels) != classes):
        raise ModelError(f"{classes} classes and {len(labels)} labels do not go together")
    named = tuple(labels) or tuple(str(number) for number in range(classes))
    return ClassificationSpec(labels=named, preprocessing=preprocessing or usual_preprocessing(variant, arguments,
                                                                                              release))


def usual_preprocessing(variant: Variant[Any], arguments: Mapping[str, Any], release: Weights | None) -> Preprocessing:
    """The release's preprocessing, or the default one, at the size this model is built for."""
    assert isinstance(variant.figures, Figures), "a variant that takes images says at which size"
    published = release.image if release else variant.settings().get("image", variant.figures.image)
    asked = arguments.get("image", published)
    size = (asked, asked) if isinstance(asked, int) else tuple(asked)
    if release is None:
        return Preprocessing(size=size)
    return Preprocessing(size=size, mean=release.mean, std=release.std, crop=release.crop,
                         interpolation=release.interpolation)
