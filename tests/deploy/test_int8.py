"""Models in int8 answer nearly like the plain ones, and say where they do not."""
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import vitrail
from tests.contracts.small import build
from tests.deploy.test_optimize import apart, noise, plan_of
from vitrail.core.errors import ExportError, SettingsError
from vitrail.data.formats.digits import Digits
from vitrail.deploy import optimize as optimizer
from vitrail.deploy.cpu import compile as compiler
from vitrail.deploy.cpu.native import linear
from vitrail.deploy.cpu import attention, int8, ranges
from vitrail.deploy.cpu.graph import calls, traced
from vitrail.tasks.classification.model import Classifier

needed = pytest.mark.skipif(not int8.available(), reason="this machine has no products in int8")
aten = torch.ops.aten


class Rows(torch.nn.Module):
    """Two linear layers with a GELU between them, and a residual around them; then a third, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = ((24, 48), (48, 24), (24, 24), (24, 5))
        self.up, self.down, self.side, self.last = (torch.nn.Linear(*size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).repeat(1, 4, 1)                # (B, 12, 24)
        x = x + self.down(F.gelu(self.up(x)))
        return self.last(self.side(x).mean(1))


def rows(image: Tensor) -> tuple[Rows, fx.Graph, Any, dict[str, ranges.Range]]:
    model = Rows()
    graph, constants = traced(model, image)
    return model, graph, constants, ranges.observed(graph, constants, [image])


def kinds(graph: fx.Graph) -> list[str]:
    """How each layer with a residual adds it up."""
    return [str(node.args[13]) for node in calls(graph, torch.ops.onednn.qlinear_pointwise.binary)]


def simulated(x: Tensor, layer: torch.nn.Linear, reads: ranges.Range) -> Tensor:
    """What a layer answers when its input and its weights are rounded, in plain float64."""
    whole = (x.double() / reads.scale).round().add(reads.zero).clamp(0, 255)
    scale = layer.weight.double().abs().amax(1, keepdim=True) / 127
    weight = (layer.weight.double() / scale).round() * scale
    return F.linear((whole - reads.zero) * reads.scale, weight, layer.bias.double())


@needed
@pytest.mark.parametrize("native", [True, False])
@torch.no_grad()
def test_a_plan_answers_as_rounding_says(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(linear, "fits", lambda *_: False)
    x = noise(2, 3, 4, 6)
    model, graph, constants, found = rows(x)
    up, down, side = (found[key] for key in list(ranges.keys(graph, constants).values())[:3])
    chosen = int8.choose(graph, constants, found, {}, {})
    told = int8.pack(graph, constants, chosen)
    kernels = told.pop("int8 in a native kernel")
    assert told == {"linear in int8": 3, "int8 with activation": 1, "int8 with residual": 1, "int8 to int8": 1}
    if native and linear.available(torch.uint8):
        assert kernels == 3
    else:
        assert kinds(graph) == ["add"], "nothing is written where an unknown call has its answer"
    y = x.flatten(2).repeat(1, 4, 1).double()
    y = y + simulated(F.gelu(simulated(y, model.up, up)), model.down, down)
    expected = F.linear(simulated(y, model.side, side).mean(1), model.last.weight.double(), model.last.bias.double())
    answered = compiler.module(graph, constants)(x)
    plain = model(x)
    assert (answered - expected).abs().max() < 0.02 * (plain - expected).abs().max() + 2e-5
    assert (answered - plain).abs().max() > 1e-4, "nothing was rounded"


@needed
def test_a_wrong_range_is_noticed() -> None:
    model, image = build("deit_ti16"), noise(2, 3, 64, 96)
    made = vitrail.optimize(model, image, precision="int8")
    assert made.calibration is not None and len(made.calibration.ranges) == 6
    for factor, bound in ((1.0, 0.02), (0.1, 10.0)):
        for key, reads in made.calibration.ranges.items():
            made.calibration.ranges[key] = dataclasses.replace(reads, scale=reads.scale * factor)
        made.plan(image)
        far = apart(model, made, image)
        assert far <= bound and (factor == 1.0 or far > 0.1)


@needed
@pytest.mark.parametrize("name", ["deit_ti16", "swin_t", "mobilevit_xxs", "resnet50", "pvt_v2_b0"])
def test_structures_answer_alike_on_unseen_images(name: str) -> None:
    model = build(name)
    made = vitrail.optimize(model, noise(2, 3, 96, 96), precision="int8", calibration=[noise(3, 3, 96, 96, seed=2)])
    assert not made.report.left, made.report.left
    assert made.report.calibrated == 3 and made.report.rewritten["linear in int8"] > 3
    assert 1e-4 < apart(model, made, noise(2, 3, 96, 96, seed=1)) <= 0.05
    image = noise(3, 3, 96, 64, seed=3)                 # the ranges serve other shapes
    assert apart(model, made, image) <= 0.05 and made.report.rewritten["linear without a range"] == 0
    assert made.report.rewritten["linear in int8"] > 3 and made(image).dtype == torch.float32


@needed
def test_answers_do_not_change_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are written where a summand was: never in what is read once more."""
    monkeypatch.setattr(linear, "fits", lambda *_: False)
    monkeypatch.setattr(compiler, "recorded", lambda plan, *_: plan)
    for name in ("deit_ti16", "pvt_v2_b0"):
        image = noise(2, 3, 64, 64)
        made = vitrail.optimize(build(name), image, precision="int8")
        before, first = image.clone(), made(image)
        assert torch.equal(made(image), first) and torch.equal(image, before)
        plan = plan_of(made)
        assert "sum" in kinds(plan.graph)
        for node in calls(plan.graph, torch.ops.onednn.qlinear_pointwise.binary):
            node.args = (*node.args[:13], "add", *node.args[14:])
        plan.recompile()
        assert (made(image) - first).abs().max() <= 2e-2 * (first.max() - first.min()), name


@needed
def test_layers_that_lose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm that makes a few channels a thousand times as large, and a layer that undoes it; none is made alike."""
    monkeypatch.setattr(int8.equalise, "factors", lambda *_: {})
    model, image = build("deit_ti16"), noise(2, 3, 64, 64)
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm))
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features == len(norm.weight))
    with torch.no_grad():
        for t in (norm.weight, norm.bias):
            t[:3] *= 1000
        layer.weight[:, :3] /= 1000
    plain, made = (vitrail.optimize(m, image, precision="int8") for m in (build("deit_ti16"), model))
    ((weight, ratio),) = made.report.stayed.items()
    assert ratio < int8.LEAST and model.get_parameter(weight) is layer.weight
    assert made.report.rewritten["linear that loses"] == 1 and not plain.report.stayed
    assert made.report.rewritten["linear in int8"] == plain.report.rewritten["linear in int8"] - 1
    assert apart(model, made, noise(2, 3, 64, 64, seed=1)) <= 0.03


@needed
def test_the_head_and_layers_of_few_rows_stay() -> None:
    made = vitrail.optimize(build("deit_ti16"), noise(2, 3, 64, 64), precision="int8")
    told = made.report.rewritten
    assert told["linear of few rows"] == 4 and told["linear"] == 4       # the last block's on the class token, the head
    assert made.report.calibrated == 2, "on the example where nothing else is given"


@needed
def test_digits_are_told_apart_as_well() -> None:
    data = Digits()
    images = (data.images.float() / 64 - 2)[:, None].repeat(1, 3, 1, 1)
    images = F.interpolate(images, size=(16, 16), mode="bilinear")
    labels, order = torch.tensor(data.labels), torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    train, test = order[:1397], order[1397:]
    torch.manual_seed(0)
    model = vitrail.create_model("deit_ti16", classes=10, dim=64, depth=4, heads=4, patch=4, image=16).train()
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=15 * 22)
    for part in [part for _ in range(15) for part in train[torch.randperm(len(train))].split(64)]:
        F.cross_entropy(model(images[part]), labels[part]).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    made = vitrail.optimize(model.eval(), images[train[:64]], precision="int8", calibration=images[train].split(64))
    assert made.report.calibrated == ranges.MOST and made.report.rewritten["linear in int8"] == 14

    @torch.no_grad()
    def right(found: Classifier) -> float:
        return float((found(images[test]).argmax(1) == labels[test]).float().mean())
    assert right(model) > 0.9 and right(made) >= right(model) - 0.005


@needed
@pytest.mark.parametrize(("calibration", "says"), [
    ([], "no image"), ([noise(2, 3, 32, 48)], "batch 0 .* shape"), (noise(2, 3, 32, 32), "batch 0 .* shape"),
    ([noise(2, 3, 32, 32), noise(2, 3, 32, 32) * float("nan")], "batch 1 .* not finite"),
    ([(noise(2, 3, 32, 32), 1)], "a tuple"), ([noise(2, 3, 32, 32).byte()], "torch.uint8")])
def test_what_cannot_calibrate_is_refused(calibration: Any, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        vitrail.optimize(build("deit_ti16"), noise(1, 3, 32, 32), precision="int8", calibration=calibration)


def test_only_int8_is_calibrated() -> None:
    with pytest.raises(SettingsError, match="only int8"):
        vitrail.optimize(build("deit_ti16"), noise(1, 3, 32, 32), precision="bf16", calibration=[])


def test_where_there_is_no_int8_the_plan_is_that_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "available", lambda: False)
    model = build("deit_ti16")
    made = vitrail.optimize(model, noise(1, 3, 32, 32), precision="int8")
    assert "int8 needs" in made.report.left and made.report.calibrated == 0
    assert made.report.rewritten["linear"] > 3 and apart(model, made, noise(1, 3, 32, 32, seed=1)) <= 1e-5


def test_no_products_where_torch_lacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)
    monkeypatch.setattr(int8, "packed", Lacking())
    assert not int8.available.__wrapped__()


@needed
def test_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimizer.BOUNDS, "int8", 1e-5)
    with pytest.raises(ExportError, match="allowed in int8"):
        vitrail.optimize(build("deit_ti16"), noise(2, 3, 64, 64), precision="int8")


@pytest.mark.parametrize("shape", [(5, 3, 50, 16), (2, 4, 3, 49, 8)])
@pytest.mark.parametrize("masked", ["", "all", "each"])
def test_attention_as_products(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], masked: str) -> None:
    monkeypatch.setattr(attention, "TILE", 2 * shape[1] * shape[-3] * shape[-2]**2)     # two images at a time, or one
    q, k, v = (noise(*shape, seed=seed).bfloat16() for seed in range(3))
    bias = noise(*(shape[:1] if masked == "each" else (1,)), *shape[1:-1], shape[-2], seed=3).bfloat16()
    made = attention.attend(q, k, v, bias if masked else None, 0.3)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), bias.float() if masked else None, scale=0.3)
    assert (made.float() - exact).abs().max() <= 2e-2 * exact.abs().max()
    assert made.transpose(-2, -3).is_contiguous()
