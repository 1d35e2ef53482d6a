"""What a model of language remembers beside its tensors: its vocabulary, and how long a text it knows."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from vitrail.core import catalogue
from vitrail.core.card import Variant, Weights
from vitrail.core.errors import CheckpointError, ModelError, VitrailError
from vitrail.tasks.language.vocabulary import Vocabulary

KINDS = ("translation", "masked", "causal")
LENGTHS = {"translation": 64, "causal": 64, "masked": 32}       # tokens of a text, where the user does not say


@dataclass(frozen=True, kw_only=True)
class LanguageSpec:
    """kind: one of KINDS, what the model does. length: the most tokens of a text that it was trained on."""

    kind: str
    vocabulary: Vocabulary
    length: int

    def constructor_arguments(self, variant: Variant[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The size of the vocabulary; and more places, where the network has one for each token and too few."""
        own = variant.settings().get("length")
        longer = {"length": self.length} if own is not None and self.length > own else {}
        return {"vocabulary": len(self.vocabulary), **longer}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "length": self.length, "vocabulary": self.vocabulary.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises CheckpointError or ValueError where a field is missing or of the wrong kind."""
        length = data["length"]
        kind = str(data["kind"])
        if type(length) is not int or not 1 <= length <= 1 << 20 or kind not in KINDS:
            raise ValueError(f"length {length!r}, kind {kind!r}")
        try:
            return cls(kind=kind, length=length, vocabulary=Vocabulary.from_json(data["vocabulary"]))
        except VitrailError as e:
            raise CheckpointError(str(e)) from None


def make_spec(name: str, variant: Variant[Any], arguments: Mapping[str, Any], release: Weights | None, *,
              vocabulary: Vocabulary | None = None, length: int = 0) -> LanguageSpec:
    """The spec of a new model of language.

    length: the most tokens of a text; 0: the model's own, at most 64, or 32 to fill gaps. A model that has a place for
    each token is built with more of them where it needs them.

    Raises ModelError for a network that does nothing of the kind, a missing vocabulary, and arguments that follow from
    it.
    """
    kind = next((task for task in catalogue.find(name).tasks if task in KINDS), "")
    if not kind:
        raise ModelError(f"{name} is not a model of language; `vitrail list --kind foundation` shows those")
    if vocabulary is None:
        raise ModelError(f"{name} needs a vocabulary: vocabulary=Vocabulary.of(texts, 'words')")
    if "pad" in arguments:
        raise ModelError(f"the argument 'pad' of {name} follows from the vocabulary: leave it out")
    own = variant.settings().get("length")
    return LanguageSpec(kind=kind, vocabulary=vocabulary,
                        length=length or min(own or LENGTHS[kind], LENGTHS[kind]))
