"""Optimised models answer like the plain ones, whatever they are made of."""
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import vitrail
from tests.contracts.small import STRUCTURES, build
from vitrail.core.errors import ExportError, SettingsError
from vitrail.deploy import optimised
from vitrail.deploy.cpu import compile as compiler
from vitrail.deploy.cpu.native import linear as native
from vitrail.deploy import gpu
from vitrail.deploy.cpu import fuse, graph, moves, slices
from vitrail.deploy.cpu.program import Program
from vitrail.tasks.classification.model import Classifier


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(model: Classifier, made: Classifier, image: Tensor) -> float:
    """The largest difference of any logit, as a share of their range."""
    with torch.inference_mode():
        there, here = model(image), made(image)
    return float((there - here).abs().max() / (there.max() - there.min()))


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_answers_alike(name: str) -> None:
    model = build(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = vitrail.optimize(model, noise(2, 3, 64, 96))
    assert not made.report.left, made.report.left
    assert made.report.rewritten["linear"] + made.report.rewritten["convolution"] > 3
    assert apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 1e-5, "images that it was not checked on"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the model itself is left alone"


@pytest.mark.parametrize("name", ["deit_ti16", "swin_t", "mobilevit_xxs", "xcit_nano_12_p16", "resnet18"])
def test_half_as_many_bits(name: str) -> None:
    model = build(name)
    made = vitrail.optimize(model, noise(2, 3, 64, 96), precision="bf16")
    if fuse.bfloat16_available():
        assert 1e-5 < apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 2e-2 and not made.report.left
    else:
        assert "bfloat16" in made.report.left and apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 1e-5
    assert made(noise(2, 3, 64, 96)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_it_is_compiled(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without one can tell: by a compiler that changes nothing."""
    monkeypatch.setattr(gpu, "there", lambda image: True)
    monkeypatch.setattr(gpu, "HOW", {"backend": "eager"})
    model, image = build("deit_ti16"), noise(2, 3, 32, 48)
    made = vitrail.optimize(model, image, precision=precision)
    assert made.report.rewritten == {"compiled as a whole": 1} and not made.report.left
    assert made(image).dtype == torch.float32 and apart(model, made, noise(2, 3, 32, 48, seed=1)) <= 2e-2
    assert (made.report.difference > 1e-6) == (precision == "bf16")
    with pytest.raises(SettingsError, match="int8 is for the processor"):
        vitrail.optimize(model, image, precision="int8")
    monkeypatch.setattr(gpu, "HOW", {"backend": "none such"})
    assert "none such" in vitrail.optimize(model, image, precision=precision).report.left


def plan_of(made: optimised.Optimised) -> fx.GraphModule:
    """The first of its plans, as a graph."""
    plan: Any = next(iter(made._plans.values()))
    found: fx.GraphModule = plan.plan if isinstance(plan, Program) else plan
    return found


def test_every_shape_gets_a_plan_and_few_are_kept() -> None:
    model = build("deit_ti16")
    made = vitrail.optimize(model, noise(1, 3, 32, 32))
    for batch in range(1, optimised.PLANS + 3):
        assert apart(model, made, noise(batch, 3, 32, 48)) <= 1e-5
    assert len(made._plans) == optimised.PLANS


def test_a_model_in_training_stays_so_and_its_copy_does_not_learn() -> None:
    model = build("deit_ti16").train()
    model.head.eval()
    made = vitrail.optimize(model, noise(1, 3, 32, 32))
    assert model.training and model.backbone.training and not model.head.training
    assert not made.training and not any(p.requires_grad for p in made.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_what_is_not_read_is_not_computed() -> None:
    """The last block of a class-token model sees all tokens, and answers for one."""
    made = vitrail.optimize(build("deit_ti16"), noise(2, 3, 64, 64))
    plan = plan_of(made)
    linears = [n for n in plan.graph.nodes if "_linear_pointwise" in str(n.target) or n.target is native.linear]
    tokens = [n.meta["val"].shape[1] for n in linears if n.meta["val"].ndim == 3]
    assert tokens[-3:] == [1, 1, 1] and tokens[-4] == 17 and made.report.rewritten["cut away"] > 3


def test_rolls_and_windows_are_one_gather() -> None:
    made = vitrail.optimize(build("swin_t"), noise(1, 3, 224, 224))
    plan = plan_of(made)
    assert not any("roll" in str(n.target) for n in plan.graph.nodes)
    gathers = [n for n in plan.graph.nodes if "index_select" in str(n.target) or "index" in n.kwargs]
    assert len(gathers) >= 4


def test_every_size_in_a_plan_is_a_number() -> None:
    made = vitrail.optimize(build("pvt_v2_b0"), noise(2, 3, 224, 224))
    plan = plan_of(made)
    assert all(type(side) is int for n in plan.graph.nodes for value in [n.meta.get("val")]
               if isinstance(value, Tensor) and value.layout is torch.strided for side in value.shape)


def test_a_mistake_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = slices.sink

    def wrong(found: fx.Graph, constants: graph.Constants) -> int:
        for node in graph.calls(found, torch.ops.aten.layer_norm.default):
            node.args = (*node.args[:4], 0.5, *node.args[5:])
        return right(found, constants)
    monkeypatch.setattr(slices, "sink", wrong)
    with pytest.raises(ExportError, match="away from the model's"):
        vitrail.optimize(build("deit_ti16"), noise(1, 3, 32, 32))


@pytest.mark.parametrize("error", [ExportError, RuntimeError, AttributeError])
def test_what_cannot_be_rewritten_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def never(model: Any, example: Tensor) -> Any:
        raise error("torch.export cannot trace this model: it asks the weather")
    monkeypatch.setattr(compiler, "traced", never)
    model = build("deit_ti16")
    made = vitrail.optimize(model, noise(1, 3, 32, 32))
    assert "weather" in made.report.left and apart(model, made, noise(2, 3, 32, 32)) <= 1e-6


def test_without_packed_products_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "available", lambda: False)
    model = build("swin_t")
    made = vitrail.optimize(model, noise(1, 3, 224, 224))
    assert made.report.rewritten["moves of tokens"] and "linear" not in made.report.rewritten
    assert apart(model, made, noise(1, 3, 224, 224, seed=1)) <= 1e-5


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="fp32, bf16"):
        vitrail.optimize(build("deit_ti16"), noise(1, 3, 32, 32), precision="fp8")      # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "image", "says"), [
    (lambda x: x, noise(1, 3), "a function"), (build("deit_ti16"), noise(3, 32, 32), "cannot be folded"),
    (build("deit_ti16"), [noise(2, 3), noise(3, 3)], "first axes are equally long"),
    (build("deit_ti16"), ["cat.jpg"], "0 is a str"), (build("deit_ti16"), torch.tensor(1.0), "first axes"),
    (build("deit_ti16"), noise(1, 4, 32, 32), "cannot be folded")])
def test_what_is_no_model_or_no_image_is_refused(model: Any, image: Tensor, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        vitrail.optimize(model, image)


def test_moves_that_break_rows_up_are_no_gather() -> None:
    def chain(*steps: tuple[Any, tuple[Any, ...]]) -> list[fx.Node]:
        found = fx.Graph()
        node = found.placeholder("x")
        made = []
        for target, args in steps:
            node = found.call_function(target, (node, *args))
            made.append(node)
        return made
    aten = torch.ops.aten
    x = noise(1, 4, 4, 3)
    whole = chain((aten.roll.default, ([-1, -1], [1, 2])), (aten.view.default, ([1, 2, 2, 2, 2, 3],)),
                  (aten.permute.default, ([0, 1, 3, 2, 4, 5],)))
    rows = moves.rows_of(whole, (1, 4, 4, 3))
    assert rows is not None
    expected = x.roll((-1, -1), (1, 2)).view(1, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5)
    assert torch.equal(x.view(-1, 3)[rows].view(expected.shape), expected)
    assert moves.rows_of(chain((aten.roll.default, ([1], [3]))), (1, 4, 4, 3)) is None
    assert moves.rows_of(chain((aten.permute.default, ([0, 3, 1, 2],))), (1, 4, 4, 3)) is None


def test_without_its_plain_weights_a_plan_answers_batches_of_any_count() -> None:
    model = build("deit_ti16")
    made = vitrail.optimize(model, noise(4, 3, 64, 64), keep=False)
    assert not list(made.parameters()) and not made.state_dict()
    for count in (1, 4, 6):
        assert apart(model, made, noise(count, 3, 64, 64, seed=count)) <= 1e-5
    with pytest.raises(ExportError, match="64 x 64"):
        made(noise(4, 3, 64, 96))
    with pytest.raises(ExportError, match="keep=True"):
        made.model(noise(1, 3, 64, 64))
    kept = vitrail.optimize(model, noise(4, 3, 64, 64))
    assert torch.equal(kept.in_parts(noise(6, 3, 64, 64)), made(noise(6, 3, 64, 64)))


def test_a_model_that_runs_as_it_is_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ExportError("not traced")
    monkeypatch.setattr(compiler, "traced", fail)
    model = build("deit_ti16")
    made = vitrail.optimize(model, noise(2, 3, 64, 64), keep=False)
    assert made.report.left == "not traced" and apart(model, made, noise(3, 3, 64, 64)) == 0
