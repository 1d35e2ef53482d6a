"""What axial attention, lambda layers and matrix decompositions are compared with: official code, timm and formulas."""
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attention.proof import GOLDEN, Proof, apart, draw
from vitrail.attention.axial import Axial, Line, Scores, Sum
from vitrail.attention.axial_plain import PlainAxial
from vitrail.attention.gated_axial import Gated, GatedAxial
from vitrail.attention.hamburger import Hamburger, HamburgerCD, HamburgerNMF, HamburgerVQ
from vitrail.attention.lambda_layer import LambdaGlobal, LambdaLocal
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.testing.golden import Golden, read_golden
from vitrail.testing.noise import fill_

DOUBLE = torch.float64
EXACT = 1e-12       # of float64, where both sides are formulas
SIZES = ((6, 6), (5, 7))


def first(x: Tensor) -> Tensor:
    """Channels first."""
    return x.movedim(-1, 1)


def last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.movedim(1, -1)


def norm(theirs: Mapping[str, Tensor], part: slice = slice(None)) -> dict[str, Tensor]:
    """Some channels of a batch norm."""
    return {k: theirs[k][part] for k in ("weight", "bias", "running_mean", "running_var")}


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands under a prefix, without it."""
    return {k.removeprefix(prefix + "."): v for k, v in state.items() if k.startswith(prefix + ".")}


# ---------------------------------------------------------------------------------------------------- axial

def carry_line(line: Line, theirs: Mapping[str, Tensor]) -> None:
    """The official tensors of one axis. Its relative table counts from key to query for queries and values, and from
    query to key for keys; of its outputs' norm, channels of values and of offsets take turns."""
    half, size, heads = line.widths[0], line.widths[2], line.heads
    similarity = norm(below(theirs, "bn_similarity"))
    table = theirs["relative"].T.clone()
    table[:, :half], table[:, 2 * half:] = table[:, :half].flip(0), table[:, 2 * half:].flip(0)
    assert table.shape == (line.offsets.shape[0], 2 * size)
    line.offsets.data = table
    line.qkv.weight.data = theirs["qkv_transform.weight"][..., 0]
    line.norm.load_state_dict(norm(below(theirs, "bn_qkv")), strict=False)
    scores, total = line.scores, line.total
    if isinstance(scores, Gated) and isinstance(total, Gated):
        scores.gates.data = torch.stack([theirs["f_qr"], theirs["f_kr"]])
        total.gates.data = torch.stack([theirs["f_sv"], theirs["f_sve"]])
        scores, total = scores.total, total.total
    assert isinstance(scores, Scores) and isinstance(total, Sum)
    scores.gain.data = similarity["weight"].view(3, heads, 1, 1)
    scores.norm.load_state_dict({k: similarity[k] for k in ("running_mean", "running_var")}, strict=False)
    total.values.load_state_dict(norm(below(theirs, "bn_output"), slice(0, None, 2)), strict=False)
    total.places.load_state_dict(norm(below(theirs, "bn_output"), slice(1, None, 2)), strict=False)


@torch.no_grad()
def axial_official(name: str, build: Callable[..., Axial | GatedAxial]) -> float:
    """Height, then width; in evaluation, and in training, where every norm is by the batch."""
    golden, differences = read_golden(GOLDEN / f"{name}.safetensors"), []
    for mode in ("eval", "train"):
        for i, grid in enumerate(SIZES):
            ours = build(16, 2, grid=grid).train(mode == "train")
            for line in ("height", "width"):
                carry_line(ours.get_submodule(line), below(golden.state, f"{line}{i}"))   # type: ignore[arg-type]
            differences.append(apart(ours(last(golden.inputs[f"x{i}"])), last(golden.outputs[f"{mode}{i}"])))
    return max(differences)


@torch.no_grad()
def axial_against_a_loop(build: Callable[..., Axial | GatedAxial]) -> float:
    """One axis after the other, place by place, the norms being affine maps of what they remember."""
    differences = []
    for grid in ((3, 4), (5, 2)):
        ours = build(8, 2, grid=grid).double().eval()
        fill_(ours)
        x = draw(1, *grid, 8, dtype=DOUBLE)
        down = along_a_row(ours.height, x[0].transpose(0, 1)).transpose(0, 1)
        differences.append(apart(ours(x)[0], along_a_row(ours.width, down)))
    return max(differences)


def along_a_row(line: Line, x: Tensor) -> Tensor:
    """Equation 4 (and with gates equation 3 of the other paper) for rows of a map (h, w, C)."""
    scores, total = line.scores, line.total
    of_scores, of_answers = ((part.gates if isinstance(part, Gated) else torch.ones(2, dtype=DOUBLE))
                             for part in (scores, total))
    scores, total = (part.total if isinstance(part, Gated) else part for part in (scores, total))
    assert isinstance(scores, Scores) and isinstance(total, Sum) and scores.norm.running_var is not None
    gains = scores.gain[..., 0, 0] / (scores.norm.running_var.view(3, -1) + scores.norm.eps).sqrt()
    h, w, dim = x.shape
    heads, half, size = line.heads, line.widths[0], line.widths[2]
    qkv = line.norm(line.qkv(x)[None])[0].view(h, w, heads, 2 * size)
    values, places = torch.zeros(h, w, dim, dtype=DOUBLE), torch.zeros(h, w, dim, dtype=DOUBLE)
    for y, i, head in np.ndindex(h, w, heads):
        q, row = qkv[y, i, head, :half], []
        for j in range(w):
            k, r = qkv[y, j, head, half:2 * half], line.offsets[j - i + w - 1]
            row.append(gains[0, head] * (q @ k) + gains[1, head] * of_scores[0] * (q @ r[:half])
                       + gains[2, head] * of_scores[1] * (k @ r[half:2 * half]))
        weights, own = torch.stack(row).softmax(0), slice(head * size, head * size + size)
        values[y, i, own] = of_answers[0] * (weights @ qkv[y, :, head, 2 * half:])
        places[y, i, own] = of_answers[1] * (weights @ line.offsets[w - 1 - i:2 * w - 1 - i, 2 * half:])
    return (total.values(values[None]) + total.places(places[None]))[0]


@torch.no_grad()
def plain_axial_against_torch() -> float:
    """torch's attention over every column, and then over every row."""
    differences = []
    for (h, w), heads in zip(SIZES, (2, 4), strict=True):
        ours, x = PlainAxial(16, heads), draw(2, h, w, 16)
        fill_(ours)
        lines = []
        for line in (ours.height, ours.width):
            theirs = nn.MultiheadAttention(16, heads, batch_first=True)
            theirs.load_state_dict({"in_proj_weight": line.qkv.proj.weight, "in_proj_bias": line.qkv.proj.bias,
                                    "out_proj.weight": line.out.proj.weight, "out_proj.bias": line.out.proj.bias})
            lines.append(theirs)
        y = x.clone()
        for column in range(w):
            y[:, :, column] = lines[0](*[x[:, :, column]] * 3)[0]
        z = y.clone()
        for row in range(h):
            z[:, row] = lines[1](*[y[:, row]] * 3)[0]
        differences.append(apart(ours(x), z))
    return max(differences)


# ---------------------------------------------------------------------------------------------------- lambda

@torch.no_grad()
def lambda_against_timm() -> float:
    """timm's path by offsets, with one key a place, in evaluation and in training."""
    import_torchvision()
    from timm.layers.lambda_layer import LambdaLayer
    differences = []
    for grid, heads, training in ((SIZES[0], 3, False), (SIZES[1], 4, False), (SIZES[1], 2, True)):
        theirs: Any = LambdaLayer(24, feat_size=grid, num_heads=heads, dim_head=6,
                                  r=None).train(training)   # type: ignore[arg-type]
        ours = LambdaGlobal(24, heads, grid=grid, keys=6).train(training)
        fill_(theirs)
        ours.offsets.copy_(theirs.pos_emb.flatten(0, 1)[None])
        differences.append(carried_lambda(ours, theirs, draw(2, *grid, 24)))
    return max(differences)


@torch.no_grad()
def lambda_convolution_against_timm() -> float:
    """timm's lambda convolution, which is one over three axes; its windows reach beyond the smaller map."""
    import_torchvision()
    from timm.layers.lambda_layer import LambdaLayer
    differences = []
    for (h, w), heads, window, training in ((SIZES[0], 3, 5, False), (SIZES[1], 2, 9, False), (SIZES[1], 4, 3, True)):
        theirs: Any = LambdaLayer(24, num_heads=heads, dim_head=6, r=window).train(training)
        ours = LambdaLocal(24, heads, window=window, keys=6).train(training)
        fill_(theirs)
        ours.conv.weight.copy_(theirs.conv_lambda.weight[..., 0])
        ours.conv.bias.copy_(theirs.conv_lambda.bias)                       # type: ignore[union-attr]
        differences.append(carried_lambda(ours, theirs, draw(2, h, w, 24)))
    return max(differences)


def carried_lambda(ours: LambdaGlobal | LambdaLocal, theirs: nn.Module, x: Tensor) -> float:
    state = theirs.state_dict()
    ours.qkv.weight.copy_(state["qkv.weight"][..., 0, 0])
    for name in ("norm_q", "norm_v"):
        ours.get_submodule(name).load_state_dict(below(state, name))
    return apart(ours(x), last(theirs(first(x))))


@torch.no_grad()
def intra_depth(form: str) -> float:
    """Several keys and values a place."""
    golden, differences = read_golden(GOLDEN / "lambda_layer.safetensors"), []
    for i, heads, depth in (("0", 3, 2), ("1", 4, 3)):
        state, x = below(golden.state, form + i), golden.inputs[form + i]
        ours: LambdaGlobal | LambdaLocal
        if form == "global":
            ours = LambdaGlobal(24, heads, grid=(x.shape[2], x.shape[3]), keys=5, intra=depth)
            ours.offsets.copy_(state["rel_pos_emb"].flatten(0, 1).mT.flatten(1)[None])
        else:
            ours = LambdaLocal(24, heads, window=state["pos_conv.weight"].shape[-1], keys=5, intra=depth)
            ours.conv.weight.copy_(state["pos_conv.weight"][:, :, 0])
            ours.conv.bias.copy_(state["pos_conv.bias"])                    # type: ignore[union-attr]
        ours.qkv.weight.copy_(torch.cat([state[f"to_{part}.weight"] for part in "qkv"])[..., 0, 0])
        for name in ("norm_q", "norm_v"):
            ours.get_submodule(name).load_state_dict(norm(below(state, name)), strict=False)
        differences.append(apart(ours.eval()(last(x)), last(golden.outputs[form + i])))
    return max(differences)


@torch.no_grad()
def lambda_against_its_formula() -> float:
    """Equations 1 and 2 with E_nm written out for all pairs, in float64."""
    differences = []
    for (h, w), intra in zip(((4, 3), (2, 5), (1, 4)), (1, 3, 2), strict=True):
        ours, x = LambdaGlobal(12, 2, grid=(h, w), keys=4, intra=intra).double().eval(), draw(2, h, w, 12, dtype=DOUBLE)
        fill_(ours)
        q, k, v = ours.qkv(x).split(ours.widths, -1)
        q = ours.norm_q(q).reshape(2, h * w, 2, 4)
        k = k.reshape(2, h * w, intra, 4).softmax(1)
        v = ours.norm_v(v).reshape(2, h * w, intra, 6)
        y, x_ = torch.arange(h * w) // w, torch.arange(h * w) % w
        at = (y - y[:, None] + h - 1) * (2 * w - 1) + x_ - x_[:, None] + w - 1
        e = ours.offsets[0][at].view(h * w, h * w, intra, 4)
        matrices = torch.einsum("bmuk,bmuv->bkv", k, v)[:, None] + torch.einsum("nmuk,bmuv->bnkv", e, v)
        differences.append(apart(ours(x), torch.einsum("bngk,bnkv->bngv", q, matrices).reshape(2, h, w, 12)))
    return max(differences)


@torch.no_grad()
def local_is_global_with_zeros() -> float:
    """A lambda convolution is a table of offsets that is zero beyond the window."""
    differences = []
    for (h, w), intra in zip(((6, 6), (4, 7)), (1, 2), strict=True):
        local = LambdaLocal(12, 2, window=5, keys=4, intra=intra).double().eval()
        whole = LambdaGlobal(12, 2, grid=(h, w), keys=4, intra=intra).double().eval()
        fill_(local)
        nn.init.zeros_(local.conv.bias)         # type: ignore[arg-type]
        whole.load_state_dict(local.state_dict(), strict=False)
        table = torch.zeros(2 * h - 1, 2 * w - 1, intra, 4, dtype=DOUBLE)
        table[h - 3:h + 2, w - 3:w + 2] = local.conv.weight.permute(2, 3, 1, 0)
        whole.offsets.copy_(table.view_as(whole.offsets))
        x = draw(2, h, w, 12, dtype=DOUBLE)
        differences.append(apart(whole(x), local(x)))
    return max(differences)


# ---------------------------------------------------------------------------------------------------- hamburger

def hamburgers(form: str, build: Callable[..., Hamburger], golden: Golden, i: int) -> Hamburger:
    """Ours with the official tensors, decomposing in one or two groups of channels."""
    state, bases = below(golden.state, f"{form}{i}"), golden.inputs[f"bases.{form}{i}"]
    ours = build(12, bases.shape[0], hidden=16, rank=bases.shape[-1]).double()
    lower = "lower_bread.0" if form == "nmf" else "lower_bread"
    ours.lower.load_state_dict({"weight": state[f"{lower}.weight"][..., 0, 0], "bias": state[f"{lower}.bias"]})
    ours.upper.load_state_dict({"weight": state["upper_bread.0.weight"][..., 0, 0]})
    ours.norm.load_state_dict(norm(below(state, "upper_bread.1")), strict=False)
    ours.bases.copy_(bases)
    return ours


def hamburger_official(form: str, build: Callable[..., Hamburger]) -> float:
    """The published layer ReLU(x + ours(x)) in evaluation (7 steps) and in training (6), and there its gradient."""
    golden, differences = read_golden(GOLDEN / "hamburger.safetensors"), []
    for i in (0, 1):
        for mode in ("eval", "train"):
            ours = hamburgers(form, build, golden, i).train(mode == "train")
            x = golden.inputs[f"x{i}"].clone().requires_grad_()
            y = F.relu(x + first(ours(last(x))))
            differences.append(apart(y.detach(), golden.outputs[f"{mode}.{form}{i}"]))
        (y * golden.inputs[f"pull{i}"]).sum().backward()
        assert x.grad is not None
        differences.append(apart(x.grad, golden.outputs[f"grad.{form}{i}"]))
    return max(differences)


PROOFS = [
    Proof(name="axial", how="golden", reference="axial-deeplab AxialAttention, 2 sizes, evaluation and training",
          difference=lambda: axial_official("axial", Axial)),
    Proof(name="axial", how="property", reference="a loop over places in float64",
          difference=lambda: axial_against_a_loop(Axial), tolerance=EXACT),
    Proof(name="axial_plain", how="package", reference="torch MultiheadAttention over columns, then rows, 2 sizes",
          difference=plain_axial_against_torch),
    Proof(name="gated_axial", how="golden",
          reference="Medical-Transformer AxialAttention_dynamic, 2 sizes, evaluation and training",
          difference=lambda: axial_official("gated_axial", GatedAxial)),
    Proof(name="gated_axial", how="property", reference="a loop over places in float64",
          difference=lambda: axial_against_a_loop(GatedAxial), tolerance=EXACT),
    Proof(name="lambda_global", how="package", reference="timm LambdaLayer by offsets, 2 sizes",
          difference=lambda_against_timm),
    Proof(name="lambda_global", how="golden", reference="lucidrains/lambda-networks with several keys a place, 2 sizes",
          difference=lambda: intra_depth("global")),
    Proof(name="lambda_global", how="property", reference="equations 1 and 2 with all pairs written out, float64",
          difference=lambda_against_its_formula, tolerance=EXACT),
    Proof(name="lambda_local", how="package", reference="timm LambdaLayer's convolution, 2 sizes",
          difference=lambda_convolution_against_timm),
    Proof(name="lambda_local", how="golden", reference="lucidrains/lambda-networks with several keys a place, 2 sizes",
          difference=lambda: intra_depth("local")),
    Proof(name="lambda_local", how="property", reference="the global form with a table of zeros beyond the window",
          difference=local_is_global_with_zeros, tolerance=EXACT),
    *(Proof(name=f"hamburger_{form}", how="golden", tolerance=1e-8,       # the official ridge is a float32
            reference="Enjoy-Hamburger HamburgerV1 with the same bases, 2 sizes, answers and gradients",
            difference=lambda form=form, build=build: hamburger_official(form, build))      # type: ignore[misc]
      for form, build in (("nmf", HamburgerNMF), ("vq", HamburgerVQ), ("cd", HamburgerCD))),
]
