"""Swin V2: cosines with a bounded scale, norms behind the branches, biases that outlive a change of window."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.backbones.swin_v2 import CosineAttention, NormedMerging, SwinV2, res_post_norm
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, Residual, Windows
from vitrail.positions.log_cpb import LogBias


def attention(shift: int = 0, *, size: int = 4, first: int = 4) -> CosineAttention:
    torch.manual_seed(0)
    mix = CosineAttention(8, 2, Windows(size, shift), first).eval()
    for p in mix.parameters():
        nn.init.normal_(p, std=0.5)
    return mix


def small(**changes: object) -> Any:
    torch.manual_seed(0)
    settings = {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": (4, 4), **changes}
    return SwinV2(**settings).eval()        # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("H, W", [(8, 12), (6, 9), (4, 10), (3, 2)])
def test_it_is_the_papers_equation_over_the_padded_map_with_strangers_apart(H: int, W: int, shift: int) -> None:
    mix, x = attention(shift), torch.randn(2, H, W, 8)
    h, w = math.ceil(H / 4) * 4, math.ceil(W / 4) * 4
    padded = torch.zeros(2, h, w, 8, dtype=torch.float64)
    padded[:, :H, :W] = x
    dy, dx = shift if H > 4 else 0, shift if W > 4 else 0
    y, x_ = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    mix = mix.double()
    q, k, v = (padded.flatten(1, 2) @ mix.qkv.proj.weight.T).chunk(3, -1)
    q, v = q + mix.q_bias, v + mix.v_bias
    offsets = torch.stack([y[:, None] - y, x_[:, None] - x_], -1).double()
    spaced = offsets.sign() * (1 + 8 * offsets.abs() / 3).log2() / 3
    bias = 16 * mix.bias.fc2(mix.bias.fc1(spaced).relu()).sigmoid()                     # (N, N, heads)
    near = ((y - dy) // 4 == ((y - dy) // 4)[:, None]) & ((x_ - dx) // 4 == ((x_ - dx) // 4)[:, None])
    heads = []
    for i in range(2):
        qi, ki, vi = (t[..., 4 * i:4 * i + 4] for t in (q, k, v))
        cosine = qi @ ki.mT / (qi.norm(dim=-1)[:, :, None] * ki.norm(dim=-1)[:, None]).clamp(min=1e-12)
        scores = cosine * mix.log_scale[i].exp() + bias[..., i]
        heads.append(scores.masked_fill(~near, -math.inf).softmax(-1) @ vi)
    expected = mix.out.proj(torch.cat(heads, -1)).view(2, h, w, 8)[:, :H, :W]
    torch.testing.assert_close(mix(x.double()), expected, atol=1e-6, rtol=0)      # offsets are made in float32


def test_the_scale_of_the_cosines_is_at_most_a_hundred() -> None:
    mix, x = attention(), torch.randn(1, 4, 4, 8)
    answers = []
    for scale in (99.0, 100.0, 5000.0):
        nn.init.constant_(mix.log_scale, math.log(scale))
        answers.append(mix(x))
    assert torch.allclose(answers[1], answers[2], atol=1e-6) and not torch.allclose(answers[0], answers[1], atol=1e-6)


def test_the_length_of_queries_and_keys_does_not_matter() -> None:
    mix, x = attention(), torch.randn(1, 4, 4, 8)
    before = mix(x)
    with torch.no_grad():
        mix.qkv.proj.weight[:16].mul_(7)
        mix.q_bias.mul_(7)
    assert torch.allclose(mix(x), before, atol=1e-5)


def test_keys_have_no_bias() -> None:
    names = {name for name, _ in attention().named_parameters() if "bias" in name and not name.startswith("bias")}
    assert names == {"q_bias", "v_bias", "out.proj.bias"}


def test_what_a_branch_adds_is_normed() -> None:
    part = res_post_norm(nn.Linear(8, 8), 8, 0.0)
    x = 100 * torch.randn(5, 8)
    assert torch.allclose((part(x) - x).mean(-1), torch.zeros(()), atol=1e-4)
    assert torch.allclose((part(x) - x).std(-1, correction=0), torch.ones(()), atol=1e-3)


def test_merging_norms_behind_the_projection() -> None:
    down = NormedMerging(4)
    y = down(torch.randn(1, 5, 6, 4))
    assert y.shape == (1, 3, 3, 8) and torch.allclose(y.mean(-1), torch.zeros(()), atol=1e-5)


def test_a_larger_window_takes_the_same_tensors_and_keeps_the_biases_within_reach() -> None:
    source, grown = small(), small(window=(8, 8), first_window=(4, 4))
    grown.load_state_dict(source.state_dict())
    bias = grown.stages[0].blocks[0].mix.fn.fn.bias
    assert isinstance(bias, LogBias)
    near, far = bias((4, 4)), bias((8, 8)).unflatten(2, (8, 8)).unflatten(1, (8, 8))
    assert torch.equal(far[:, :4, :4, :4, :4].flatten(3).flatten(1, 2), near)


def test_the_first_window_is_the_measure_of_offsets() -> None:
    image, answers = torch.randn(1, 3, 64, 64), list[Tensor]()
    for first in ((4, 4), (6, 6)):
        model = small(first_window=first)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
        answers.append(model(image).maps[-1])
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)


@pytest.mark.parametrize("name, stages", [("swin_v2_t_w16", (16, 16, 16, 8)), ("swin_v2_b_w12to24", (24, 24, 24, 12))])
def test_released_windows_are_no_larger_than_the_map_they_were_trained_on(name: str, stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = vitrail.create_model(name)
    mixers = [m for m in model.modules() if isinstance(m, CosineAttention)]
    assert {m.out.proj.in_features: m.groups.size for m in mixers} == dict(
        zip(model.get_submodule("backbone").channels, stages, strict=True))        # type: ignore[arg-type]
    first = {m.bias.size for m in mixers}
    assert first == ({12, 6} if "12to" in name else {16, 8})


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("swin_v2_t", depths=(2, 2, 2, 2))
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, nn.LayerNorm):
            behind_branch = ".fn.norm" in name
            assert part.eps == 1e-5 and (part.weight == (not behind_branch)).all() and not part.bias.any(), name
        elif isinstance(part, CosineAttention):
            assert torch.allclose(part.log_scale, torch.tensor(math.log(10)))
            assert not part.q_bias.any() and not part.v_bias.any()


def test_a_block_is_born_as_the_identity() -> None:
    block, x = small().stages[0].blocks[0], torch.randn(1, 8, 8, 8)
    assert torch.equal(block(x), x) and sum(isinstance(m, Residual) for m in block.modules()) == 2


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    drops = [m.p for m in small(drop_path=0.3).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_each_stage_needs_all_settings() -> None:
    with pytest.raises(ModelError, match="2 depths, 2 numbers of heads, 2 windows and 3 first windows"):
        vitrail.create_model("swin_v2_t", depths=(1, 1), heads=(3, 6), window=(8, 8), first_window=(8, 8, 8))


def test_the_weights_are_shown_window_by_window() -> None:
    model, seen = small(), list[Tensor]()
    for part in model.modules():
        if isinstance(part, CosineAttention):
            part.attend.watched = True
            part.attend.softmax.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(2, 3, 50, 70))
    assert [tuple(w.shape[:3]) for w in seen] == [(2, 20, 1)] * 2 + [(2, 6, 2)] * 2       # (B, G, h, ...)
    assert (seen[1] == 0).any() and not (seen[0] == 0).any()        # the mask of the shifted windows
