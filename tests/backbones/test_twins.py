"""Twins: windows that never move beside keys from all of the map, and positions once a stage."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.twins import Positioned, Twins
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, GroupedAttention, Reduced, ReducedAttention, SelfAttention, Windows


def small(**changes: Any) -> Twins:
    torch.manual_seed(0)
    return Twins(**{"dims": (16, 32), "depths": (2, 3), "heads": (1, 2), "mlp_ratios": (2, 2), "reductions": (4, 1),
                    **changes}).eval()


def mixers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, GroupedAttention | ReducedAttention)]


def test_a_token_sees_its_window_and_no_other() -> None:
    mixer, x = GroupedAttention(8, 2, Windows(3)), noise(1, 7, 9, 8).requires_grad_()
    for y, at in ((0, 0), (4, 5), (6, 8)):
        (slope,) = torch.autograd.grad(mixer(x)[0, y, at].square().sum(), x)
        expected = torch.zeros(7, 9, dtype=torch.bool)
        expected[y // 3 * 3:y // 3 * 3 + 3, at // 3 * 3:at // 3 * 3 + 3] = True
        assert torch.equal(slope[0].abs().sum(-1) > 0, expected)


def test_one_window_is_plain_attention() -> None:
    mixer, plain, x = GroupedAttention(8, 2, Windows(5)), SelfAttention(8, 2), noise(2, 5, 5, 8)
    plain.load_state_dict(mixer.state_dict())
    torch.testing.assert_close(mixer(x).flatten(1, 2), plain(x.flatten(1, 2)))


def test_zeros_that_fill_up_a_window_are_attended() -> None:
    """As in the release, which knows a masked form and does not use it."""
    mixer, x = GroupedAttention(8, 2, Windows(4)), noise(1, 2, 4, 8)
    filled = torch.cat([x, torch.zeros(1, 2, 4, 8)], 1)
    torch.testing.assert_close(mixer(x), mixer(filled)[:, :2])


def test_windows_and_the_whole_map_take_turns() -> None:
    kinds = [[type(m) for m in mixers(stage)] for stage in small(window=4).stages]
    assert kinds == [[GroupedAttention, ReducedAttention], [GroupedAttention, ReducedAttention, GroupedAttention]]
    assert {type(m) for m in mixers(small())} == {ReducedAttention}
    groups = [getattr(m, "groups") for m in mixers(vitrail.create_model("twins_svt_s"))]       # noqa: B009
    assert [g.size for g in groups if isinstance(g, Windows)] == [7] * 9
    assert {g.shift for g in groups if isinstance(g, Windows)} == {0}
    assert [isinstance(g, Reduced) for g in groups[1::2]] == [True] * 7 + [False] * 2


def test_two_blocks_let_every_token_see_the_whole_map() -> None:
    """A window alone does not: it takes the block behind it."""
    model = small(dims=(16,), depths=(2,), heads=(2,), mlp_ratios=(2,), reductions=(2,), window=4)
    block, second = model.stages[0].blocks[0].block, model.stages[0].blocks[1]
    x = noise(1, 8, 8, 16).requires_grad_()
    for part, count in ((block, 16), (lambda x: second(block(x)), 64)):
        (slope,) = torch.autograd.grad(part(x)[0, 1, 1].square().sum(), x)
        assert (slope[0].abs().sum(-1) > 0).sum() == count


def test_positions_come_once_a_stage_behind_its_first_block() -> None:
    model = vitrail.create_model("twins_pcpvt_s")
    for stage in model.backbone.stages:
        assert [isinstance(block, Positioned) for block in stage.blocks] == [True] + [False] * (len(stage.blocks) - 1)
    first, x = small().stages[0].blocks[0], noise(1, 5, 6, 16)
    before = first.block(x)
    expected = before + first.position.conv(before)
    torch.testing.assert_close(first(x), expected)


def test_only_the_last_map_is_normed() -> None:
    *finer, last = small()(noise(1, 3, 64, 64)).maps
    torch.testing.assert_close(last.mean(-1), torch.zeros(last.shape[:-1]), rtol=0, atol=1e-5)
    assert all(m.mean(-1).abs().max() > 1e-2 for m in finer)


def test_stochastic_depth_grows_over_all_stages() -> None:
    drops = [m.p for m in small(drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([p for p in (0, 0.1, 0.2, 0.3, 0.4) for _ in range(2)])


def test_born_as_published() -> None:
    for part in vitrail.create_model("twins_svt_s", depths=(2, 2, 2, 2)).modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.06) and not part.bias.any()
        elif isinstance(part, nn.Conv2d):
            fan_out = part.out_channels // part.groups * part.kernel_size[0] ** 2       # within a group
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            assert part.bias is not None and not part.bias.any()


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ModelError, match="3 reductions"):
        small(reductions=(4, 2, 1))
