"""What local and relative attention are compared with: timm, official kernels and modules, and loops over places."""
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.attention.proof import GOLDEN, Proof, apart, draw
from vitrail.attention.attention_augmented import AttentionAugmented, RelativeAttention2d
from vitrail.attention.local_relation import (LocalRelation, TablePrior, absolute_difference, product,
                                              squared_difference)
from vitrail.attention.stand_alone import StandAlone
from vitrail.attention.vector import (Relation, VectorPairwise, VectorPatchwise, clique_product, concatenation,
                                      dot_product, hadamard_product, patch_concatenation, star_product, subtraction,
                                      summation)
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import BatchNorm
from vitrail.ops.neighbours import masked_edges, zero_edges
from vitrail.testing.golden import read_golden
from vitrail.testing.noise import fill_

SIZES = ((8, 8), (3, 7))
EXACT = 1e-12       # of float64, where both sides are formulas


@torch.no_grad()
def stand_alone_against_timm() -> float:
    """HaloAttn of blocks of one pixel adds two vectors as long as the query; halves of zeros make them ours."""
    import_torchvision()
    from timm.layers.halo_attn import HaloAttn
    differences: list[float] = []
    for (h, w), dim, heads, window in ((SIZES[0], 24, 3, 7), (SIZES[1], 16, 2, 5)):
        theirs = HaloAttn(dim, num_heads=heads, block_size=1, halo_size=window // 2, scale_pos_embed=True)
        ours, size = StandAlone(dim, heads, window=window), dim // heads
        fill_(theirs)
        rows, columns = theirs.pos_embed.height_rel, theirs.pos_embed.width_rel
        rows[:, size // 2:], columns[:, :size // 2] = 0, 0
        k, v = theirs.kv.weight[..., 0, 0].unflatten(0, (heads, 2, size)).unbind(1)
        ours.qkv.proj.weight.copy_(torch.cat([theirs.q.weight[..., 0, 0] * theirs.scale, k.flatten(0, 1),
                                              v.flatten(0, 1)]))
        ours.rows.copy_(rows[window - 1:, None, :size // 2].expand_as(ours.rows))
        ours.columns.copy_(columns[window - 1:, None, size // 2:].expand_as(ours.columns))
        x = draw(2, h, w, dim)
        differences.append(apart(ours(x), theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
    return max(differences)


@torch.no_grad()
def stand_alone_against_a_loop() -> float:
    """Place by place, head by head, with tables of its own for each head, both edges."""
    differences: list[float] = []
    for edges, (h, w) in ((zero_edges, (3, 5)), (masked_edges, (4, 2))):
        mixer, x = StandAlone(8, 2, window=3, edges=edges).double(), draw(1, h, w, 8, dtype=torch.float64)
        q, k, v = (t.unflatten(-1, (2, 4)) for t in mixer.qkv.proj(x[0]).chunk(3, -1))      # (h, w, H, D)
        out = torch.zeros(h, w, 2, 4, dtype=torch.float64)
        for y, u, head in np.ndindex(h, w, 2):
            scores, values = [], []
            for dy, du in np.ndindex(3, 3):
                at = y + dy - 1, u + du - 1
                inside = 0 <= at[0] < h and 0 <= at[1] < w
                if inside or edges is zero_edges:
                    key, value = (t[at][head] if inside else torch.zeros(4, dtype=torch.float64) for t in (k, v))
                    place = torch.cat([mixer.rows[dy, head], mixer.columns[du, head]])
                    scores.append(q[y, u, head] @ (key + place))
                    values.append(value)
            out[y, u, head] = torch.stack(scores).softmax(0) @ torch.stack(values)
        differences.append(apart(mixer(x)[0], out.flatten(2)))
    return max(differences)


@torch.no_grad()
def local_relation_against_its_kernel() -> float:
    golden, differences = read_golden(GOLDEN / "local_relation.safetensors"), []
    s = golden.state
    for name, relate in (("product", product), ("absolute", absolute_difference), ("squared", squared_difference)):
        ours = LocalRelation(12, 3, window=5, relate=relate, prior=TablePrior)
        ours.load_state_dict({
            "qk.weight": torch.cat([s["query.weight"], s["key.weight"]])[..., 0, 0],
            "qk.bias": torch.cat([s["query.bias"], s["key.bias"]]), "prior.table": s["pos_weight"].flatten(1).T,
            "out.weight": s["out.weight"][..., 0, 0], "out.bias": s["out.bias"]})
        for i in "01":
            expected = golden.outputs[name + i].permute(0, 2, 3, 1)
            differences.append(apart(ours(golden.inputs["x" + i].permute(0, 2, 3, 1)), expected))
    return max(differences)


@torch.no_grad()
def vector_against_the_released(name: str, ours: VectorPairwise | VectorPatchwise) -> float:
    """The whole published block: x + ours(ReLU(norm(x)))."""
    golden, before = read_golden(GOLDEN / f"{name}.safetensors"), BatchNorm(32)
    names = {"sam.conv1": "phi", "sam.conv2": "psi", "sam.conv3": "beta", "bn2": "out.norm", "conv": "out.expand",
             "bn1": "before", "sam.conv_p": "place", "sam.conv_w.0": "gamma.norm1", "sam.conv_w.2": "gamma.fc1",
             "sam.conv_w.3": "gamma.norm2", "sam.conv_w.5": "gamma.fc2"}
    state = {f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in golden.state.items()}
    state.pop("place.bias", None)                               # it cancels in the difference of two places
    if "place.weight" in state:
        state["place.weight"] = state["place.weight"][..., 0, 0]
    before.load_state_dict({k.removeprefix("before."): state.pop(k) for k in list(state) if k.startswith("before.")},
                           strict=False)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and all(k.endswith("num_batches_tracked") for k in missing)
    both, differences = nn.ModuleList([before, ours]).eval(), []
    for i in "01":
        x = golden.inputs["x" + i].permute(0, 2, 3, 1)
        differences.append(apart(x + both[1](both[0](x).relu()), golden.outputs["y" + i].permute(0, 2, 3, 1)))
    return max(differences)


def relation_against_a_loop(relate: Relation, of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
    """`of` makes a place's relation of φ_i (r), φ_j and ψ_j (r, k²); numpy mirrors the edges."""
    differences: list[float] = []
    for h, w in ((4, 4), (2, 5)):
        phi, psi = (draw(1, 3, h, w, seed=i, dtype=torch.float64) for i in range(2))
        around = [torch.from_numpy(np.pad(t[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")) for t in (phi, psi)]
        rows = [torch.stack([of(phi[0, :, y, x], *(t[:, y:y + 3, x:x + 3].flatten(1) for t in around))
                             for x in range(w)], -1) for y in range(h)]
        differences.append(apart(relate(phi, psi, 3)[0], torch.stack(rows, -2)))
    return max(differences)


def pairwise_relations() -> float:
    forms: dict[Relation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        summation: lambda i, phi, psi: i[:, None] + psi, subtraction: lambda i, phi, psi: i[:, None] - psi,
        concatenation: lambda i, phi, psi: torch.cat([i[:, None].repeat(1, 9), psi]),
        hadamard_product: lambda i, phi, psi: i[:, None] * psi, dot_product: lambda i, phi, psi: (i @ psi)[None]}
    return max(relation_against_a_loop(relate, of) for relate, of in forms.items())


def patchwise_relations() -> float:
    forms: dict[Relation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        star_product: lambda i, phi, psi: i @ psi, clique_product: lambda i, phi, psi: (phi.T @ psi).flatten(),
        patch_concatenation: lambda i, phi, psi: torch.cat([i, psi.flatten()])}
    return max(relation_against_a_loop(relate, of) for relate, of in forms.items())


@torch.no_grad()
def augmented_against_timm() -> float:
    """The attention's half is timm's BottleneckAttn, the other torch's convolution."""
    import_torchvision()
    from timm.layers.bottleneck_attn import BottleneckAttn
    differences: list[float] = []
    for grid, heads, keys, values in ((SIZES[0], 2, 24, 16), (SIZES[1], 4, 8, 12)):
        theirs = BottleneckAttn(20, values, feat_size=grid, num_heads=heads, dim_head=keys // heads, qkv_bias=True,
                                scale_pos_embed=True)
        conv, ours = nn.Conv2d(20, 20 - values, 3, padding=1), AttentionAugmented(20, heads, grid=grid, keys=keys,
                                                                                  values=values)
        for module in (theirs, conv):
            fill_(module)
        half = ours.branches["attention"]
        assert isinstance(half, RelativeAttention2d)
        theirs_weight, theirs_bias = theirs.qkv.weight[..., 0, 0], theirs.qkv.bias
        assert theirs_bias is not None
        for ours_of, theirs_of in ((half.kqv.weight, theirs_weight), (half.kqv.bias, theirs_bias)):
            q, k, v = theirs_of.split((keys, keys, values))
            ours_of.copy_(torch.cat([k, q, v]))
        half.position.load_state_dict({"rows": theirs.pos_embed.height_rel, "columns": theirs.pos_embed.width_rel})
        nn.init.eye_(half.out.proj.weight)                      # timm's has no projection
        nn.init.zeros_(half.out.proj.bias)
        ours.branches["conv"].load_state_dict(conv.state_dict())
        x = draw(2, *grid, 20)
        image = x.permute(0, 3, 1, 2)
        differences.append(apart(ours(x), torch.cat([conv(image), theirs(image)], 1).permute(0, 2, 3, 1)))
    return max(differences)


PROOFS = [
    Proof(name="stand_alone", how="package", reference="timm HaloAttn in blocks of 1, two windows and sizes",
          difference=stand_alone_against_timm),
    Proof(name="stand_alone", how="property", reference="a loop over places and heads, both edges, float64",
          difference=stand_alone_against_a_loop, tolerance=EXACT),
    Proof(name="local_relation", how="golden", reference="the official kernels (LR-Net), three similarities, two sizes",
          difference=local_relation_against_its_kernel),
    Proof(name="vector_pairwise", how="golden", reference="the official SAN block, two sizes",
          difference=lambda: vector_against_the_released("vector_pairwise", VectorPairwise(
              32, 4, window=5, width=16, hidden=4))),
    Proof(name="vector_pairwise", how="property", reference="a loop over places for each of five relations, float64",
          difference=pairwise_relations, tolerance=EXACT),
    Proof(name="vector_patchwise", how="golden", reference="the official SAN block, two sizes",
          difference=lambda: vector_against_the_released("vector_patchwise", VectorPatchwise(
              32, 4, window=5, width=16, hidden=4))),
    Proof(name="vector_patchwise", how="property", reference="a loop over places for each of three relations, float64",
          difference=patchwise_relations, tolerance=EXACT),
    Proof(name="attention_augmented", how="package", reference="timm BottleneckAttn beside a convolution, two sizes",
          difference=augmented_against_timm),
]
