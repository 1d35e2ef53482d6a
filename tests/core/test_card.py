"""Variants check their arguments against the constructor; papers cite themselves."""
import pytest

from vitrail.core.card import Figures, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError

FIGURES = Figures(params=1, gflops=0.1)
IN1K = Weights(name="in1k", source="hf://o/r/f.safetensors", keys="timm", license="Apache-2.0")


def build(*, dim: int = 8, depth: int = 2, heads: int = 1):
    return ("built", dim, depth, heads)


def test_builds_with_its_arguments_and_with_changes():
    made = variant(build, FIGURES, IN1K, dim=16)
    assert made() == ("built", 16, 2, 1)
    assert made(depth=3, dim=4) == ("built", 4, 3, 1)
    assert made.settings() == {"dim": 16, "depth": 2, "heads": 1}
    assert made.weights == (IN1K,)
    assert made() == ("built", 16, 2, 1)        # the changes of another call do not stay


def test_compares_and_prints():
    assert variant(build, FIGURES, dim=16) == variant(build, FIGURES, dim=16)
    assert variant(build, FIGURES, dim=16) != variant(build, FIGURES, dim=17)
    assert "dim" in repr(variant(build, FIGURES, dim=16))


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(ModelError, match=r"build takes no argument 'dpth'. Did you mean 'depth'\?.*dim, depth, heads"):
        variant(build, FIGURES)(dpth=3)
    with pytest.raises(ModelError, match="'dims'"):
        Variant(build, FIGURES, args={"dims": 3})


def test_cards_are_fixed():
    with pytest.raises(AttributeError):
        FIGURES.params = 2
    with pytest.raises(TypeError):
        Figures(1, 2.0)     # by keyword only, so that params and gflops cannot change places


def test_cite():
    paper = Paper(title="A Title", arxiv="0000.00000", authors="A. Author", year=2021, venue="CONF")
    assert paper.cite() == "A. Author (2021). A Title. CONF, arXiv:0000.00000"
