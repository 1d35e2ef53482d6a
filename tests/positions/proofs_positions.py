"""What the position codes are compared with: timm and transformers, and where no package holds one, its definition."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attention.proof import Proof, apart, draw
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import PositionTable, RelativeBias
from vitrail.positions.conditional import ConditionalPosition
from vitrail.positions.gated import GatedPositional, as_convolution
from vitrail.positions.log_cpb import LogBias
from vitrail.positions.predecessors import bits, integers, normalised, sines
from vitrail.positions.rotary_2d import MixedRotary2d, Rotary2d
from vitrail.positions.sincos_2d import SinCos2d
from vitrail.positions.sine_2d import Sine2d
from vitrail.positions.sinusoidal import Sinusoidal, shift, sinusoids
from vitrail.testing.noise import fill_

EXACT = 1e-12       # of float64, where both sides are formulas
GRIDS = ((4, 4), (3, 7))


def sinusoidal_against_transformers() -> float:
    import_torchvision()
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
    differences: list[float] = []
    for length, dim, start in ((50, 32, 0), (300, 6, 411)):
        theirs = MarianSinusoidalPositionalEmbedding(start + length, dim)
        table = theirs.create_weight()[start:].unflatten(1, (2, -1)).mT.flatten(1)      # all sines came first
        differences.append(apart(Sinusoidal(dim)(torch.zeros(1, length, dim), start)[0], table))
    return max(differences)


def sinusoidal_shift() -> float:
    code = sinusoids(1000, 64)
    return max(apart(code[:-d] @ shift(d, 64), code[d:]) for d in (1, 7, 600))


@torch.no_grad()
def learned_against_timm() -> float:
    import_torchvision()
    from timm.layers import resample_abs_pos_embed
    differences: list[float] = []
    for prefix, old, new in ((1, (4, 4), (7, 5)), (0, (6, 3), (2, 9)), (2, (5, 5), (5, 5))):
        position = PositionTable(old, 12, prefix=prefix)
        fill_(position)
        theirs = resample_abs_pos_embed(position.table, list(new), list(old), num_prefix_tokens=prefix)
        differences.append(apart(position(torch.zeros_like(theirs), new), theirs))
    return max(differences)


@torch.no_grad()
def relative_bias_against_timm() -> float:
    import_torchvision()
    from timm.layers.pos_embed_rel import RelPosBias, resize_rel_pos_bias_table_levit
    differences: list[float] = []
    for size, other in ((7, 4), (3, 8)):
        theirs, ours, grown = RelPosBias((size, size), 3), RelativeBias(size, 3), RelativeBias(other, 3)
        fill_(theirs)
        table = theirs.relative_position_bias_table
        ours.table.data.copy_(table)
        differences.append(apart(ours(), theirs.get_bias()[0]))
        differences.append(apart(grown.fit(table), resize_rel_pos_bias_table_levit(table, grown.table.shape)))
    return max(differences)


@torch.no_grad()
def log_bias_against_timm() -> float:
    import_torchvision()
    from timm.models.swin_transformer_v2 import WindowAttention
    differences: list[float] = []
    for window, size in (((7, 7), 7), ((5, 8), 4), ((1, 3), 1)):
        theirs = WindowAttention(16, window, 4, pretrained_window_size=(size, size))
        fill_(theirs, keep=("qkv.weight",))
        nn.init.zeros_(theirs.qkv.weight)
        nn.init.zeros_(theirs.q_bias)                       # all products are 0, so that the scores are the bias
        scores: list[Tensor] = []
        theirs.softmax.register_forward_pre_hook(lambda module, args, found=scores: found.append(args[0]))
        theirs(torch.zeros(1, window[0] * window[1], 16))
        ours = LogBias(size, 4)
        ours.load_state_dict({k.replace("cpb_mlp.0", "fc1").replace("cpb_mlp.2", "fc2"): v
                              for k, v in theirs.state_dict().items() if k.startswith("cpb_mlp")})
        differences.append(apart(ours(window), scores[0][0]))
    return max(differences)


def sine_2d_against_transformers() -> float:
    import_torchvision()
    from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding
    differences: list[float] = []
    for (h, w), dim in (((8, 8), 32), ((5, 11), 12)):
        theirs, ours, x = DetrSinePositionEmbedding(dim // 2, normalize=True), Sine2d(dim), torch.zeros(2, h, w, 7)
        shape = torch.Size((2, 7, h, w))
        inside = torch.zeros(2, h, w, dtype=torch.bool)
        inside[0], inside[1, :h - 2, :w - 3] = True, True
        for mask in (inside, None):
            out = theirs(shape, device="cpu", dtype=torch.float32, mask=mask).permute(0, 2, 3, 1)
            differences.append(apart(ours(x, mask).expand_as(out), out))
    return max(differences)


@torch.no_grad()
def sincos_2d_against_packages() -> float:
    import_torchvision()
    from timm.layers import build_sincos2d_pos_embed
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEConfig, ViTMAEEmbeddings
    differences: list[float] = []
    for grid in GRIDS:
        ours = SinCos2d(24)(torch.zeros(1, grid[0] * grid[1], 24), grid)[0]
        differences.append(apart(ours, build_sincos2d_pos_embed(list(grid), 24, interleave_sin_cos=True)))
    mae = ViTMAEEmbeddings(ViTMAEConfig(hidden_size=24, image_size=20, patch_size=4))
    mae.initialize_weights()
    ours = SinCos2d(24, prefix=1)(torch.zeros(1, 26, 24), (5, 5))
    differences.append(apart(ours.roll(12, -1), mae.position_embeddings))
    return max(differences)


@torch.no_grad()
def gated_against_timm() -> float:
    import_torchvision()
    from timm.models.convit import GPSA
    differences: list[float] = []
    for (h, w), heads in (((5, 5), 4), ((3, 7), 9)):
        dim, n = 4 * heads, h * w
        theirs, ours, x = GPSA(dim, heads), GatedPositional(dim, heads), draw(2, n, dim)
        fill_(theirs)
        y, u = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        dy, dx = y - y[:, None], u - u[:, None]
        theirs.rel_indices = torch.stack([dx, dy, dx ** 2 + dy ** 2], -1)[None].float()     # it knows squares alone
        state = theirs.state_dict()
        ours.load_state_dict({
            "qkv.proj.weight": torch.cat([state["qk.weight"], state["v.weight"]]), "gate": state["gating_param"],
            **{f"position.{k}": state[f"pos_proj.{k}"] for k in ("weight", "bias")},
            **{f"out.proj.{k}": state[f"proj.{k}"] for k in ("weight", "bias")}})
        differences.append(apart(ours(x, (h, w)), theirs(x)))
    return max(differences)


@torch.no_grad()
def gated_is_a_convolution() -> float:
    """k² heads, the gate shut: a k x k convolution away from the border, with any values and any output."""
    differences: list[float] = []
    for k, grid in ((3, (6, 9)), (5, (7, 7))):
        heads, size = k * k, 2
        mixer = GatedPositional(heads * size, heads).double()
        as_convolution(mixer, locality=60.0)
        mixer.gate.fill_(60.0)
        mixer.qkv.proj.weight.copy_(draw(3 * heads * size, heads * size, dtype=torch.float64))
        values = mixer.qkv.proj.weight[2 * heads * size:].unflatten(0, (heads, size))           # (H, D, C)
        outs = mixer.out.proj.weight.unflatten(1, (heads, size))                                # (C, H, D)
        # head `across * k + down` looks at its pixel of the square, so the kernel is transposed
        kernel = torch.einsum("ohd,hdi->oih", outs, values).unflatten(2, (k, k)).mT
        x = draw(2, *grid, heads * size, seed=1, dtype=torch.float64)
        ours, r = mixer(x.flatten(1, 2), grid).unflatten(1, grid), k // 2
        theirs = F.conv2d(x.permute(0, 3, 1, 2), kernel, mixer.out.proj.bias).permute(0, 2, 3, 1)
        differences.append(apart(ours[:, r:-r, r:-r], theirs))
    return max(differences)


@torch.no_grad()
def conditional_against_timm() -> float:
    import_torchvision()
    from timm.models.twins import PosConv
    differences: list[float] = []
    for prefix, grid in zip((0, 2), GRIDS, strict=True):
        theirs, ours, x = PosConv(12, 12), ConditionalPosition(12, prefix=prefix), draw(2, prefix + math.prod(grid), 12)
        fill_(theirs)
        ours.load_state_dict({k.replace("proj.0", "conv"): v for k, v in theirs.state_dict().items()})
        expected = torch.cat([x[:, :prefix], theirs(x[:, prefix:], grid)], 1)
        differences.append(apart(ours(x, grid), expected))
    return max(differences)


def rotary_against_timm() -> float:
    import_torchvision()
    from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
    differences: list[float] = []
    for grid, prefix in zip(GRIDS, (0, 1), strict=True):
        x = draw(2, 3, prefix + math.prod(grid), 16)
        theirs = RotaryEmbeddingCat(16, in_pixels=False, temperature=100.0, grid_indexing="xy").get_embed(list(grid))
        expected = torch.cat([x[..., :prefix, :], apply_rot_embed_cat(x[..., prefix:, :], theirs)], -2)
        differences.append(apart(Rotary2d(48, 3, prefix=prefix)(x, grid), expected))
    return max(differences)


@torch.no_grad()
def mixed_rotary_against_timm() -> float:
    import_torchvision()
    from timm.layers import RotaryEmbeddingMixed, apply_rot_embed_cat
    differences: list[float] = []
    for grid, prefix in zip(GRIDS, (0, 1), strict=True):
        x, ours = draw(2, 3, prefix + math.prod(grid), 16), MixedRotary2d(48, 3, prefix=prefix)
        theirs = RotaryEmbeddingMixed(48, depth=2, num_heads=3, feat_shape=list(grid))
        fill_(theirs)
        ours.frequency.data.copy_(theirs.freqs[:, 1])
        turned = apply_rot_embed_cat(x[..., prefix:, :], theirs.get_embed()[1])
        differences.append(apart(ours(x, grid), torch.cat([x[..., :prefix, :], turned], -2)))
    return max(differences)


def integer_by_counting() -> float:
    return max(abs(float(v) - p) for p, row in enumerate(integers(300, 3)) for v in row)


def normalised_by_counting() -> float:
    return max(abs(float(v) - p / (n - 1)) for n in (6, 11) for p, row in enumerate(normalised(n, 2)) for v in row)


def binary_by_counting() -> float:
    return max(abs(float(v) - int(digit)) for p, row in enumerate(bits(300, 9))
               for v, digit in zip(row, reversed(f"{p:09b}"), strict=True))


def sine_only_by_counting() -> float:
    return max(abs(float(v) - math.sin(math.pi * p / 2 ** (i + 1)))
               for p, row in enumerate(sines(70, 5)) for i, v in enumerate(row))


PROOFS = [
    Proof(name="sinusoidal", how="package", reference="transformers Marian, two lengths and starts",
          difference=sinusoidal_against_transformers),
    Proof(name="sinusoidal", how="property", reference="PE(p + d) = PE(p) T(d), three steps, 1,000 places, float64",
          difference=sinusoidal_shift, tolerance=EXACT),
    Proof(name="learned", how="package", reference="timm resample_abs_pos_embed, three pairs of grids",
          difference=learned_against_timm),
    Proof(name="relative_bias", how="package", reference="timm RelPosBias and its resampling, two windows",
          difference=relative_bias_against_timm),
    Proof(name="log_bias", how="package", reference="timm Swin V2 WindowAttention's scores, three windows",
          difference=log_bias_against_timm),
    Proof(name="sine_2d", how="package", reference="transformers DETR, two sizes, with and without masks",
          difference=sine_2d_against_transformers),
    Proof(name="sincos_2d", how="package", reference="timm build_sincos2d_pos_embed, two grids; transformers ViTMAE",
          difference=sincos_2d_against_packages),
    Proof(name="gated_position", how="package", reference="timm ConViT's GPSA, two grids",
          difference=gated_against_timm),
    Proof(name="gated_position", how="property", reference="born a 3 x 3 and a 5 x 5 convolution, float64",
          difference=gated_is_a_convolution, tolerance=EXACT),
    Proof(name="conditional", how="package", reference="timm Twins PosConv, two grids",
          difference=conditional_against_timm),
    Proof(name="rotary_2d", how="package", reference="timm RotaryEmbeddingCat, two grids",
          difference=rotary_against_timm),
    Proof(name="rotary_2d_mixed", how="package", reference="timm RotaryEmbeddingMixed, two grids",
          difference=mixed_rotary_against_timm),
    Proof(name="integer_position", how="property", reference="its definition, place by place",
          difference=integer_by_counting, tolerance=0.0),
    Proof(name="normalised_position", how="property", reference="its definition, place by place",
          difference=normalised_by_counting, tolerance=EXACT),
    Proof(name="binary_position", how="property", reference="Python's own binary digits",
          difference=binary_by_counting, tolerance=0.0),
    Proof(name="sine_only_position", how="property", reference="its definition, place by place",
          difference=sine_only_by_counting, tolerance=EXACT),
]
