"""The token mixer of a plain backbone, replaced: by name, by class, by one's own class; and what refuses, and why."""
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.attention.proof import draw
from vitrail.attention.criss_cross import CrissCross
from vitrail.attention.linear import LinearAttention
from vitrail.core.catalogue import mechanism_of
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.core.mechanism import Takes
from vitrail.mixers import AsSequence, Mixed, find_mixer
from vitrail.nn import SelfAttention

TINY = {"dim": 16, "heads": 2, "depth": 2, "patch": 8, "image": 32, "classes": 3}


class Mean(nn.Module):
    """A mixer of a user's own: every token gets the mean of all."""

    def __init__(self, dim: int):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 3
        return self.out(x.mean(1, keepdim=True)).expand_as(x)


class Shift(nn.Module):
    """Another: every place gets its left neighbour. Takes maps."""

    takes = Takes.MAP

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 4
        return x.roll(1, 2)


def test_by_name_and_by_class_it_is_the_same_model() -> None:
    torch.manual_seed(0)
    by_name = vitrail.create_model("vit_s16", mixer="linear_attention", **TINY)
    torch.manual_seed(0)
    by_class = vitrail.create_model("vit_s16", mixer=LinearAttention, **TINY)
    torch.manual_seed(0)
    declared = vitrail.create_model("vit_s16", mixer=mechanism_of("linear_attention"), **TINY)
    image = draw(2, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(by_name(image), by_class(image)) and torch.equal(by_name(image), declared(image))
    assert by_name.config == by_class.config and by_name.config.mixer == "linear_attention"
    assert isinstance(by_name.backbone, Mixed)


def test_only_the_mixer_is_other() -> None:
    """The same surroundings for all: patches, positions, norms and Mlps; no class token."""
    shapes = {}
    for mixer in ("self_attention", "criss_cross"):
        state = vitrail.create_model("deit_ti16", mixer=mixer, **TINY).state_dict()
        shapes[mixer] = {k: v.shape for k, v in state.items() if ".mix.fn." not in k}
        assert not any("prefix" in k for k in state)
    assert shapes["self_attention"] == shapes["criss_cross"]


def test_self_attention_in_is_what_was_there_but_for_the_class_token() -> None:
    torch.manual_seed(0)
    plain = vitrail.create_model("vit_s16", **TINY).backbone
    mixed = vitrail.create_model("vit_s16", mixer="self_attention", **TINY).backbone
    table, image = plain.position.table.data, draw(2, 3, 32, 32)
    mixed.load_state_dict({k.replace("mix.fn.", "mix.fn.mixer."): v[:, 1:] if k == "position.table" else v
                           for k, v in plain.state_dict().items() if not k.startswith("prefix")})
    x = plain.patch_embed(image).flatten(1, 2) + table[:, 1:]
    with torch.inference_mode():
        torch.testing.assert_close(mixed(image).maps[0].flatten(1, 2), plain.norm(plain.blocks(x)))


@pytest.mark.parametrize("own", [Mean, Shift])
def test_a_class_of_ones_own_is_saved_by_name_and_loaded_by_hand(own: type[nn.Module], tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    model = vitrail.create_model("vit_s16", mixer=own, **TINY)
    folder = vitrail.save_model(model, tmp_path / "own")
    assert vitrail.load_model(folder).config.mixer == model.config.mixer, "its module is imported, so it is found"
    with monkeypatch.context() as elsewhere:                            # another process, which has not imported it
        elsewhere.delitem(sys.modules, own.__module__)
        with pytest.raises(CheckpointError, match=own.__name__):
            vitrail.load_model(folder)
    with pytest.raises(CheckpointError, match="was handed to load_model"):
        vitrail.load_model(folder, mixer=CrissCross)
    again, image = vitrail.load_model(folder, mixer=own), draw(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(image), again(image))


def test_a_catalogued_mixer_is_saved_and_loaded_as_any_model(tmp_path: Path) -> None:
    model = vitrail.create_model("vit_s16", mixer="criss_cross", **TINY)
    again, image = vitrail.load_model(vitrail.save_model(model, tmp_path / "m")), draw(1, 3, 40, 32)
    with torch.inference_mode():
        assert torch.equal(model(image), again(image))
    with pytest.raises(CheckpointError, match="no layout but our own"):
        vitrail.save_weights(model, tmp_path / "x.safetensors", keys="timm")


def test_a_layout_is_heeded() -> None:
    assert isinstance(vitrail.create_model("vit_s16", mixer="self_attention", **TINY).backbone.blocks[0].mix.fn,
                      AsSequence)
    assert isinstance(vitrail.create_model("vit_s16", mixer="criss_cross", **TINY).backbone.blocks[0].mix.fn,
                      CrissCross)


@pytest.mark.parametrize(("name", "why"), [
    ("swin_t", "no stack of equal blocks"), ("resnet18", "no stack of equal blocks"), ("convit_ti", "local"),
    ("xcit_nano_12_p16", "no plain backbone"), ("tnt_s", "no plain backbone")])
def test_where_a_swap_makes_no_sense_the_error_says_why(name: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        vitrail.create_model(name, mixer="self_attention")


@pytest.mark.parametrize(("mixer", "why"), [
    ("criss_croos", "Did you mean 'criss_cross'"), ("vit_s16", "a model of images"), ("sinusoidal", "a position code"),
    ("causal_linear_attention", "cannot mix the tokens of an image"), (nn.Linear, "in_features"),
    (nn.Bilinear, "in1_features")])
def test_what_is_no_mixer_is_refused(mixer: str | type[nn.Module], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        vitrail.create_model("vit_s16", mixer=mixer, **TINY)


class Wide(Mean):
    def __init__(self, dim: int, heads: int):
        raise ValueError("it is too narrow")


def test_a_width_that_a_mechanism_refuses_is_named() -> None:
    with pytest.raises(ModelError, match="Wide cannot mix the tokens of vit_s16 .width 16, 2 heads, 4 x 4.*too narrow"):
        vitrail.create_model("vit_s16", mixer=Wide, **TINY)


def test_a_release_with_another_mixer_is_a_contradiction() -> None:
    with pytest.raises(ModelError, match="as published"):
        vitrail.create_model("vit_s16", mixer="criss_cross", weights="augreg_in21k_ft_in1k")


def test_explanations_refuse_what_they_cannot_follow_and_gradcam_works() -> None:
    model = vitrail.create_model("vit_s16", mixer="criss_cross", **TINY)
    picture = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(vitrail.VitrailError, match="its own row and column"):
        vitrail.explain(model, picture, method="rollout")
    assert vitrail.explain(model, picture, method="gradcam").map.shape == (4, 4)
    plain = vitrail.create_model("vit_s16", mixer=SelfAttention, **TINY)
    assert vitrail.explain(plain, picture, method="rollout").map.shape == (4, 4)
    assert find_mixer(SelfAttention).name == "self_attention"
