"""A system's published identity and figures: data only, recomputed by the contract tests."""
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vitrail.core.errors import ModelError, did_you_mean

M = TypeVar("M")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Idea:
    """What a paper takes from an earlier one, and where it says so: `Idea("backbones.vit", "section 3.1", "patches")`.

    of: a module of ours, or a key of `core.ancestors` ("unet") for a paper that has no file here.
    source: the place in the later paper where one can look it up: "abstract", "method", "section 3.1", "figure 2".
    what: what it takes, in a few words of our own, none of the paper's.
    """

    of: str
    source: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a system comes from. `builds_on` names the modules of the papers that its file imports from, which a test
    compares with the imports; `ideas` are what the paper itself builds on, whether we share code for it or not."""

    title: str
    arxiv: str                              # empty for one that is not there
    authors: str
    year: int
    venue: str = ""
    code: str = ""                          # owner/name of the official repository
    license: str = ""                       # of the official code
    builds_on: tuple[str, ...] = ()         # e.g. ("backbones.vit",)
    ideas: tuple[Idea, ...] = ()

    @property
    def appeared(self) -> tuple[int, int]:
        """Year and month of the preprint, by its arXiv number; where there is none, the year of publication and 0.

        `Paper(title="ViT", arxiv="2010.11929", authors="", year=2021).appeared` is (2020, 10).
        """
        if preprint := re.fullmatch(r"(\d\d)(\d\d)\.\d{4,5}", self.arxiv):
            return 2000 + int(preprint[1]), int(preprint[2])
        return self.year, 0

    def cite(self) -> str:
        """One line: authors, year, title, and where to find it."""
        said = ", ".join(x for x in (self.venue, self.arxiv and f"arXiv:{self.arxiv}") if x)
        return f"{self.authors} ({self.year}). {self.title}." + (f" {said}" if said else "")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a variant costs, with the head of `classes` classes at `image` x `image` pixels.

    `params` (exact) and `gflops` (1e9 multiply-adds of convolutions, products and attention) are
    recomputed by the contract test. `reported` is what the paper says of itself, and `where`.
    """

    params: int
    gflops: float
    image: int = 224
    classes: int = 1000
    reported: Mapping[str, float] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """What a model of text costs: `gflops` (1e9 multiply-adds) for one text of `length` tokens, and as many to write
    where it answers with a text. Both are recomputed by the contract test."""

    params: int
    gflops: float
    length: int
    reported: Mapping[str, float] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Released tensors: where they live, in which layout, under which licence, seen through which preprocessing."""

    name: str                               # e.g. "in1k"
    source: str                             # "hf://owner/repo/file" or "https://..."
    keys: str                               # the key table of the same module: "timm", "official"
    license: str
    sha256: str = ""                        # of the file; empty where none is published
    inside: str = ""                        # the entry of the file that holds the tensors: "model"
    classes: int = 1000
    image: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: float = 0.875                     # share of the shorter side kept by the centre crop
    interpolation: str = "bicubic"
    reported: Mapping[str, float] = field(default_factory=dict)     # a metric's name and its value
    where: str = ""


@dataclass(frozen=True)
class Variant(Generic[M]):
    """A checked constructor with its arguments: call it to build, print it, compare it.

    Raises ModelError when a change is no argument of the constructor.
    """

    build: Callable[..., M]
    figures: Figures | TextFigures
    weights: tuple[Weights, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check(self.args)

    def __call__(self, **changes: Any) -> M:
        self.check(changes)
        return self.build(**{**self.args, **changes})

    def check(self, changes: Mapping[str, Any]) -> None:
        known = inspect.signature(self.build).parameters
        for name in changes:
            if name not in known:
                raise ModelError(f"{self.build.__name__} takes no argument {name!r}.{did_you_mean(name, known)} "
                                 f"It takes: {', '.join(known)}.")

    def settings(self) -> dict[str, Any]:
        """Every argument of the constructor with the value this variant gives it."""
        known = inspect.signature(self.build).parameters
        return {name: self.args.get(name, p.default) for name, p in known.items()}


def variant(build: Callable[..., M], figures: Figures | TextFigures, *weights: Weights, **args: Any) -> Variant[M]:
    """A published size: the constructor, its figures, its released weights, its arguments."""
    return Variant(build, figures, weights, args)
