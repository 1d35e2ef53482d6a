"""Models of several inputs and outputs: flattened and rebuilt, exported, optimised, taken in parts."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.toys import boxes
from vitrail.core.errors import ExportError
from vitrail.deploy.export import export
from vitrail.deploy.inputs import ModelInputs
from vitrail.deploy.structure import Flat, leaves_of, names_of, rebuild


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


@dataclass(frozen=True)
class Answer:
    pair: Pair
    scores: dict[str, Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_structure_is_flattened_by_its_fields_and_rebuilt() -> None:
    value = Answer(Pair(noise(2), None), {"a": noise(3), "b": noise(1)})
    assert names_of(value, "output") == ["pair_left", "scores_a", "scores_b"]
    leaves = [leaf + 1 for leaf in leaves_of(value)]
    built = rebuild(value, leaves)
    assert isinstance(built, Answer) and isinstance(built.pair, Pair) and built.pair.right is None
    assert torch.equal(built.scores["b"], value.scores["b"] + 1)
    assert names_of(noise(1), "logits") == ["logits"] and names_of([noise(1), noise(1)], "x") == ["0", "1"]
    with pytest.raises(ExportError, match="scores_a is a str"):
        leaves_of({"scores": {"a": "no"}})


class Two(nn.Module):
    """Two inputs, two outputs, one of them inside another structure."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(32, 64)

    def forward(self, x: Tensor, y: Tensor) -> Answer:
        joined = torch.nn.functional.gelu(self.one(x)) + self.two(y)
        return Answer(Pair(joined, None), {"mean": joined.mean(-1), "first": self.one(joined)[:, 0]})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_model_of_any_structure_is_optimised(precision: Any) -> None:
    torch.manual_seed(0)
    model = Two().eval()
    inputs = noise(6, 10, 64), noise(6, 10, 32, seed=1)
    fast = vitrail.optimize(model, inputs, precision=precision)
    with torch.no_grad():
        output, answer = model(*inputs), fast(*inputs)
        assert isinstance(answer, Answer) and answer.pair.right is None
        for one, other in zip(leaves_of(output), leaves_of(answer), strict=True):
            assert (one - other).abs().max() <= 0.1 * (one.max() - one.min())
        more = noise(8, 10, 64, seed=2), noise(8, 10, 32, seed=3)
        whole, parts = model(*more), fast.in_parts(*more)
        for one, other in zip(leaves_of(whole), leaves_of(parts), strict=True):
            assert other.shape == one.shape and (one - other).abs().max() <= 0.1 * (one.max() - one.min())
    if precision == "fp32":
        assert not fast.report.left and fast.report.rewritten["linear"] + fast.report.rewritten.get(
            "linear in a native kernel", 0) >= 1


def detector() -> nn.Module:
    torch.manual_seed(0)
    return vitrail.create_model("toy_detector")


def test_axes_are_found_by_what_changes_them() -> None:
    inputs = ModelInputs(detector().config)
    assert inputs.names == ["images", "sizes"] and inputs.size == (48, 48)
    assert inputs.axes((48, 48), batch=True, open_size=True) == [{0: "batch", 2: "height", 3: "width"}, {0: "batch"}]
    assert inputs.axes((48, 48), batch=False, open_size=False) == [{}, {}]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_detector_is_exported_under_the_names_of_its_fields(suffix: str, tmp_path: Path) -> None:
    pictures = [boxes.Squares(4).image(i) for i in range(3)]
    made = export(detector(), tmp_path / f"m{suffix}", images=pictures)
    assert made.samples == 3 and made.worst in ("centres", "boxes") and made.agreement == 1
    note = (tmp_path / f"m{suffix}.json").read_text("utf-8")
    assert '"images": "float32 (batch, 3, 48, 48)"' in note and '"boxes": "float32 (batch, 36, 4)"' in note
    if suffix == ".onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_inputs()] == ["images", "sizes"]
        assert [value.name for value in session.get_outputs()] == ["centres", "boxes"]


def test_an_output_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.deploy.formats import Program
    write = Program.write

    def changed(self: Program, model: Flat, *args: Any, **words: Any) -> None:
        bias = model.model.head.out.bias                        # type: ignore[union-attr]
        with torch.no_grad():
            bias[3] += 0.5                                      # of the boxes alone
            write(self, model, *args, **words)
            bias[3] -= 0.5
    monkeypatch.setattr(Program, "write", changed)
    with pytest.raises(ExportError, match="largest difference in 'boxes'.*100.0% of the answers agree"):
        export(detector(), tmp_path / "m.pt2", images=[boxes.Squares(4).image(i) for i in range(2)])


def test_a_task_without_real_inputs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from vitrail.core import task
    monkeypatch.setitem(task._REGISTERED, "toy_boxes", replace(boxes.TASK, read_inputs=None))
    with pytest.raises(ExportError, match="declares no read_inputs"):
        export(detector(), tmp_path / "m.pt2", images=[boxes.Squares(1).image(0)])
