"""What attention to sampled places and to points is compared with: transformers, official code, the plain formulas."""
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.attention.proof import GOLDEN, Proof, apart, draw
from vitrail.attention.deformable import Deformable, DeformableMap
from vitrail.attention.offset_attention import OffsetAttention
from vitrail.attention.point_transformer import PointTransformer, PointTransformerMap
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.ops.deformable import sample_sum
from vitrail.testing.golden import read_golden
from vitrail.testing.noise import fill_

PYRAMIDS = ([(8, 8), (4, 4), (2, 2), (1, 1)], [(7, 5), (3, 9), (1, 4), (2, 1)])
EXACT = 1e-12           # of float64, where both sides are formulas
DEFORMABLE = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value",
              "output_proj": "out"}
POINTS = {"linear_q": "q", "linear_k": "k", "linear_v": "v", "linear_p": "theta", "linear_w": "gamma"}
OFFSET = {"q_conv": "offset.key", "v_conv": "offset.value", "trans_conv": "offset.linear", "after_norm": "offset.norm"}


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under the names of our parts."""
    return {names[k.partition(".")[0]] + k[k.index("."):]: v for k, v in state.items()}


def sampled_by_grid(maps: list[Tensor], places: Tensor, weights: Tensor) -> Tensor:
    """The plain form of `sample_sum`: all samples of all levels, stored, weighed, summed."""
    samples = []
    for level, at in zip(maps, places.unbind(3), strict=True):
        image = level.permute(0, 3, 4, 1, 2).flatten(0, 1)                          # (B H, D, h, w)
        grid = at.transpose(1, 2).flatten(0, 1) * 2 - 1                             # (B H, Q, P, 2)
        samples.append(F.grid_sample(image, grid, align_corners=False, padding_mode="zeros"))
    every = torch.stack(samples, -2).unflatten(0, places.shape[:3:2])               # (B, H, D, Q, L, P)
    return torch.einsum("bhdqlp,bqhlp->bqhd", every, weights)


def pyramid(sizes: list[tuple[int, int]], *, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps, places of which many lie beyond the maps, and weights, with gradients asked for."""
    B, Q, H, D, P = 2, 11, 3, 4, 3
    maps = [draw(B, h, w, H, D, seed=i, dtype=dtype).requires_grad_() for i, (h, w) in enumerate(sizes)]
    places = (draw(B, Q, H, len(sizes), P, 2, seed=8, dtype=dtype) * 0.7 + 0.5).requires_grad_()
    return maps, places, draw(B, Q, H, len(sizes), P, seed=9, dtype=dtype).requires_grad_()


def bags_against_grid_sample() -> float:
    """Answers and all gradients, in float64."""
    differences: list[float] = []
    for sizes in PYRAMIDS:
        maps, places, weights = pyramid(sizes)
        ours, theirs = sample_sum(maps, places, weights), sampled_by_grid(maps, places, weights)
        inputs, asked = (*maps, places, weights), draw(*ours.shape, seed=5, dtype=ours.dtype)
        slopes = zip(torch.autograd.grad(ours, inputs, asked), torch.autograd.grad(theirs, inputs, asked), strict=True)
        differences += [apart(ours.detach(), theirs.detach()), *(apart(a, b) for a, b in slopes)]
    return max(differences)


def against_transformers() -> float:
    """Points and boxes as references, masks, at two sizes; answers, weights, and the gradient of the query."""
    import_torchvision()
    from transformers.models.deformable_detr import DeformableDetrConfig
    from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention
    differences: list[float] = []
    for sizes, dim, heads, points in ((PYRAMIDS[0], 32, 8, 4), (PYRAMIDS[1], 24, 3, 2)):
        config = DeformableDetrConfig(d_model=dim, num_feature_levels=len(sizes))
        theirs = DeformableDetrMultiscaleDeformableAttention(config, heads, points)
        fill_(theirs)
        ours = Deformable(dim, heads, levels=len(sizes), points=points)
        ours.load_state_dict(renamed(theirs.state_dict(), DEFORMABLE))
        maps = [draw(2, h, w, dim, seed=i) for i, (h, w) in enumerate(sizes)]
        seen: list[Tensor] = []
        ours.shown.register_forward_hook(lambda leaf, args, weights, seen=seen: seen.append(weights))
        for numbers in (2, 4):
            reference = draw(2, 13, len(sizes), numbers, seed=7).sigmoid() * 1.2 - 0.1
            query = draw(2, 13, dim, seed=6).requires_grad_()
            for masks in (None, [draw(2, h, w, seed=h) > -0.5 for h, w in sizes]):
                out = ours(query, reference, maps, masks)
                expected, weights = theirs(
                    query, encoder_hidden_states=torch.cat([m.flatten(1, 2) for m in maps], 1),
                    attention_mask=None if masks is None else torch.cat([m.flatten(1) for m in masks], 1),
                    reference_points=reference, spatial_shapes=torch.tensor(sizes), spatial_shapes_list=sizes)
                slopes = [torch.autograd.grad(y.square().sum(), query)[0] for y in (out, expected)]
                shown = seen[-1].transpose(1, 2).reshape(weights.shape)
                differences += [apart(out.detach(), expected.detach()), apart(shown.detach(), weights.detach()),
                                apart(*slopes)]
    return max(differences)


@torch.no_grad()
def whole_steps_read_pixels() -> float:
    """On one map, born as published: head m of 8 reads pixels k steps off in its direction of the compass."""
    mixer, x = DeformableMap(16, 8).double(), draw(2, 9, 6, 16, dtype=torch.float64)
    value = F.pad(mixer.sample.value(x).unflatten(-1, (8, 2)), (0, 0, 0, 0, 4, 4, 4, 4))    # 4 zeros around the map
    compass = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
    heads = [torch.stack([value[:, 4 + dy * k:13 + dy * k, 4 + dx * k:10 + dx * k, head] for k in range(1, 5)]).mean(0)
             for head, (dx, dy) in enumerate(compass)]
    return apart(mixer(x), mixer.sample.out(torch.cat(heads, -1)))


@torch.no_grad()
def points_against_official_code() -> float:
    """Two clouds of 17 and 7 points, 5 neighbours, 4 weights for 32 channels."""
    golden = read_golden(GOLDEN / "point_transformer.safetensors")
    ours = PointTransformer(32, 4, neighbours=5).eval()
    ours.load_state_dict(renamed(golden.state, POINTS))
    ends = golden.inputs["o"].tolist()
    sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    clouds = zip(*(golden.inputs[k].split(sizes) for k in ("p", "x")), golden.outputs["y"].split(sizes), strict=True)
    return max(apart(ours(p[None], x[None])[0], y) for p, x, y in clouds)


@torch.no_grad()
def points_against_a_loop() -> float:
    """Equation 3 point by point, neighbour by neighbour, channel by channel."""
    mixer = PointTransformer(12, 3, neighbours=4).double().eval()
    fill_(mixer)
    xyz, x = draw(1, 9, 3, dtype=torch.float64), draw(1, 9, 12, seed=1, dtype=torch.float64)
    p, q, k, v = xyz[0], mixer.q(x)[0], mixer.k(x)[0], mixer.v(x)[0]
    out = torch.zeros(9, 12, dtype=torch.float64)
    for i in range(9):
        near = (p - p[i]).norm(dim=-1).argsort()[:4].tolist()
        deltas = [mixer.theta((p[j] - p[i])[None])[0] for j in near]
        scores = [mixer.gamma((k[j] - q[i] + delta)[None])[0] for j, delta in zip(near, deltas, strict=True)]
        for channel in range(12):
            parts = torch.stack([s[channel % 3] for s in scores]).softmax(0)
            out[i, channel] = sum(part * (v[j, channel] + delta[channel])
                                  for part, j, delta in zip(parts, near, deltas, strict=True))
    return apart(mixer(xyz, x)[0], out)


@torch.no_grad()
def points_of_a_map() -> float:
    """A map's places, given as points in an order drawn at random, answer the same."""
    mixer, x = PointTransformerMap(8, 2).double().eval(), draw(2, 20, 20, 8, dtype=torch.float64)
    fill_(mixer)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    y, u = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    places = torch.stack([u, y], -1).double().flatten(0, 1).expand(2, -1, -1)
    answers = torch.empty_like(x).flatten(1, 2)
    answers[:, order] = mixer.points(places[:, order], x.flatten(1, 2)[:, order])
    inside = slice(2, -2)                                   # at the edges the nearest 13 are a choice among equals
    return apart(mixer(x)[:, inside, inside], answers.view_as(x)[:, inside, inside])


@torch.no_grad()
def offsets_against_official_code() -> float:
    golden = read_golden(GOLDEN / "offset_attention.safetensors")
    ours = OffsetAttention(32).eval()
    state = {k: v[..., 0] if k.endswith("conv.weight") else v for k, v in golden.state.items()}
    ours.load_state_dict(renamed(state, OFFSET))
    return max(apart(ours(golden.inputs[k].mT).mT, golden.outputs[k]) for k in ("even", "odd"))


@torch.no_grad()
def offsets_without_order() -> float:
    """Points in another order answer the same in that order."""
    mixer, x = OffsetAttention(16).double().eval(), draw(2, 11, 16, dtype=torch.float64)
    fill_(mixer)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    return apart(mixer(x[:, order]), mixer(x)[:, order])


PROOFS = [
    Proof(name="deformable", how="package", difference=against_transformers,
          reference="transformers DeformableDetrMultiscaleDeformableAttention, points, boxes, masks, 2 sizes"),
    Proof(name="deformable", how="property", difference=bags_against_grid_sample, tolerance=EXACT,
          reference="bags of rows equal grid_sample level by level, with the gradients of all inputs"),
    Proof(name="deformable", how="property", difference=whole_steps_read_pixels, tolerance=EXACT,
          reference="a newborn reads whole pixels in the directions of the compass"),
    Proof(name="point_transformer", how="golden", difference=points_against_official_code,
          reference="POSTECH-CVLab/point-transformer PointTransformerLayer, clouds of 2 sizes"),
    Proof(name="point_transformer", how="property", difference=points_against_a_loop, tolerance=EXACT,
          reference="equation 3 as a loop over points, neighbours and channels"),
    Proof(name="point_transformer", how="property", difference=points_of_a_map, tolerance=EXACT,
          reference="the places of a map answer as points in any order"),
    Proof(name="offset_attention", how="golden", difference=offsets_against_official_code,
          reference="Strawberry-Eat-Mango/PCT_Pytorch SA_Layer, clouds of 2 sizes"),
    Proof(name="offset_attention", how="property", difference=offsets_without_order, tolerance=EXACT,
          reference="points in any order"),
]
