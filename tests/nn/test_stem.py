"""Weights for images of another number of channels."""
import pytest
import torch
from torch import nn

import vitrail
from vitrail.core.errors import CheckpointError
from vitrail.nn import Backbone, Features
from vitrail.nn.stem import adapt_input_channels, fold_input_channels, stem_weights


def test_channels_are_repeated_in_turn_and_scaled() -> None:
    weight = torch.randn(8, 3, 2, 2)
    five = fold_input_channels(weight, 5)
    assert torch.equal(five, weight[:, [0, 1, 2, 0, 1]] * (3 / 5))
    assert torch.equal(fold_input_channels(weight, 2), weight[:, :2] * 1.5)


def test_one_channel_is_the_sum_and_three_stay_as_they_are() -> None:
    weight = torch.randn(8, 3, 2, 2)
    torch.testing.assert_close(fold_input_channels(weight, 1), weight.sum(1, keepdim=True))
    assert fold_input_channels(weight, 3) is weight


def test_sums_in_half_precision_are_rounded_once() -> None:
    weight = torch.tensor([[1.0, 2.0 ** -8, 2.0 ** -8]], dtype=torch.bfloat16)
    assert fold_input_channels(weight, 1).item() == 1 + 2.0 ** -7


def test_one_channel_is_spread_over_three() -> None:
    weight = torch.randn(4, 1, 3, 3)
    assert torch.equal(fold_input_channels(weight, 3), weight.expand(-1, 3, -1, -1) * (1 / 3))


@pytest.mark.parametrize("weight, in_chans, message", [(torch.randn(8), 1, "does not read channels"),
                                                       (torch.randn(8, 0, 3, 3), 1, "does not read channels"),
                                                       (torch.randn(8, 3), 0, "at least one channel")])
def test_what_cannot_be_folded_is_refused(weight: torch.Tensor, in_chans: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fold_input_channels(weight, in_chans)


class Twin(nn.Module):
    """Two backbones side by side, one of them deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.left = vitrail.create_model("vit_ti16", depth=1, in_chans=2).backbone
        self.right = nn.Sequential(nn.Identity(), vitrail.create_model("swin_t", depths=(1, 1, 1, 1)).backbone)


def test_every_backbone_of_a_system_is_found_where_it_stands() -> None:
    twin = Twin()
    assert stem_weights(twin) == ("left.patch_embed.proj.weight", "right.1.stages.0.down.proj.weight")
    state = {"left.patch_embed.proj.weight": torch.randn(192, 3, 16, 16), "other": torch.ones(2),
             "right.1.stages.0.down.proj.weight": twin.state_dict()["right.1.stages.0.down.proj.weight"]}
    adapted = adapt_input_channels(twin, state)
    assert adapted["left.patch_embed.proj.weight"].shape == (192, 2, 16, 16)
    for same in ("other", "right.1.stages.0.down.proj.weight"):
        assert adapted[same] is state[same]


def test_a_mixed_backbone_declares_what_the_plain_one_does() -> None:
    model = vitrail.create_model("vit_ti16", depth=1, mixer="self_attention")
    assert stem_weights(model) == ("backbone.patch_embed.proj.weight",)


class Own(nn.Module):
    """A user's own backbone, which inherits from nothing of vitrail's and declares no stem."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = (3,)
        self.strides = (1,)

    def forward(self, image: torch.Tensor) -> Features:
        return Features(maps=(image.permute(0, 2, 3, 1),))

    def make_head(self, classes: int) -> nn.Module:
        return nn.Linear(3, classes)


def test_a_backbone_is_what_has_the_parts_of_one() -> None:
    own = Own()
    assert isinstance(own, Backbone) and stem_weights(own) == ()
    del own.strides
    assert not isinstance(own, Backbone)
    assert not isinstance(nn.Conv2d(3, 3, 1), Backbone)
