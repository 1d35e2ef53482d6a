"""Every form of backbone exports to both formats, and only an artefact that answers like its model is left."""
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vitrail
from tests.explanation.tiny import TINY, noise, pictures, tiny
from vitrail.core.errors import DataError, ExportError, MissingExtra, VitrailError
from vitrail.core.config import ModelConfig
from vitrail.data.transforms import evaluation_transform
from vitrail.deploy import formats
from vitrail.deploy.export import export, others
from vitrail.deploy.formats import Onnx, Program
from vitrail.nn import Attend
from vitrail.tasks.classification.model import Classifier

SMALL = {"convit_ti": dict(depth=2, local=1), "tnt_s": dict(depth=1), "vit_ti16": dict(depth=1),
         "swin_t": dict(depths=(2, 1)), "xcit_nano_12_p16": dict(depth=1, class_depth=1), "vit_giant14": dict(depth=1),
         "deit_ti16_distilled": dict(depth=1)}


def small(name: str) -> Classifier:
    return tiny(name, **SMALL.get(name, {}))


def prepared(model: Classifier, size: tuple[int, int] | None = None) -> Tensor:
    preprocessing = model.config.spec.preprocessing
    transform = evaluation_transform(replace(preprocessing, size=size or preprocessing.size))
    return torch.stack([transform(torch.from_numpy(p).permute(2, 0, 1)) for p in pictures()])


def answers(path: Path, image: Tensor) -> Tensor:
    """By the runtimes alone, without our code."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    with torch.no_grad():
        out = torch.export.load(path).module()(image)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", [n for n in TINY if n != "deit_ti16"])
def test_every_form_exports_for_every_batch(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = small(name), tmp_path / f"m{suffix}"
    made = export(model, path, images=list(pictures()))
    assert made.path == path and made.samples == 3 and made.agreement == 1 and made.difference <= 1e-5 * made.scale
    assert made.batches == (1, 2, 5) and made.sizes == (model.config.spec.preprocessing.size,) == (made.size,)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.name + ".json"} == set(made.files)
    image = prepared(model)
    with torch.no_grad():
        for batch in (image[:1], image, image.repeat(3, 1, 1, 1)):
            assert torch.allclose(answers(path, batch), model(batch), rtol=1e-4, atol=1e-4)
    assert all(part.fused for part in model.modules() if isinstance(part, Attend))


@pytest.mark.parametrize(("name", "suffix"), [("vit_ti16", ".onnx"), ("vit_ti16", ".pt2"), ("resnet18", ".onnx")])
def test_every_size_where_the_form_allows_it(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = small(name), tmp_path / f"m{suffix}"
    made = export(model, path, images=list(pictures()), size="dynamic")
    assert made.size == "dynamic" and made.sizes == others((64, 64))
    with torch.no_grad():
        for size in ((64, 64), (96, 64), (57, 83), (80, 49)):               # not the ones it was checked at
            image = prepared(model, size)
            assert torch.allclose(answers(path, image), model(image), rtol=1e-4, atol=1e-4)


def test_a_form_bound_to_a_size_is_refused_not_wrong(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="windows are laid out for one size"):
        export(small("swin_t"), tmp_path / "m.pt2", images=list(pictures()), size="dynamic")
    assert not list(tmp_path.iterdir())
    made = export(small("swin_t"), tmp_path / "m.pt2", images=list(pictures()), size=(72, 100))
    assert made.size == (72, 100) and made.sizes == ((72, 100),)


def test_a_fixed_batch_and_another_size(tmp_path: Path) -> None:
    """No table is left to be resized by each runtime in its own way: OpenVINO does not smooth."""
    model, path = tiny("vit_ti16", image=224, dim=64, depth=1), tmp_path / "m.onnx"
    for batch in ("dynamic", 2):
        made = export(model, path, images=list(pictures()), batch=batch, size=(48, 80), overwrite=True)
        graph = onnx.load(str(path)).graph
        assert "Resize" not in {node.op_type for node in graph.node}
    assert made.batches == (2,) and made.batch == 2
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 48, 80]
    image = prepared(model, (48, 80))[:2]
    found = [answers(path, image)]
    if find_spec("openvino") is not None:
        import openvino
        held = {"INFERENCE_PRECISION_HINT": openvino.Type.f32}
        found += [torch.from_numpy(openvino.Core().compile_model(str(path), "CPU", held)(image.numpy())[0])]
    with torch.no_grad():
        assert all(torch.allclose(f, model(image), rtol=1e-4, atol=1e-4) for f in found)


def test_what_the_artefact_says_of_itself(tmp_path: Path) -> None:
    model = small("vit_ti16")
    for kind in (Onnx(), Program()):
        path = tmp_path / f"m{kind.suffix}"
        made = export(model, path, images=list(pictures()))
        inside, beside = json.loads(kind.note(path)), json.loads(Path(f"{path}.json").read_text("utf-8"))
        for note in (inside, beside):
            config = ModelConfig.from_json(note["config"])
            assert config.spec == model.config.spec
            assert note["kind"] == made.format and note["batch"] == "dynamic" and note["size"] == [64, 64]
        assert beside["checked"]["difference"] == made.difference and beside["checked"]["samples"] == 3
        assert set(beside["sha256"]) == {path.name}
        assert json.dumps(made.to_json())
    loaded = onnx.load(str(tmp_path / "m.onnx"))
    assert [o.version for o in loaded.opset_import if o.domain == ""] == [formats.OPSET]
    assert json.loads(Onnx().note(tmp_path / "m.onnx"))["opset"] == formats.OPSET
    sides = [d.dim_param or d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim]
    assert (loaded.graph.input[0].name, sides) == ("image", ["batch", 3, 64, 64])
    onnx.checker.check_model(loaded)


def test_large_weights_stand_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGE", 1000)
    model = small("vit_ti16")
    made = export(model, tmp_path / "m.onnx", images=list(pictures()))
    assert len(made.files) == 3 and {p.name for p in tmp_path.iterdir()} == set(made.files)
    assert made.bytes > 4 * sum(p.numel() for p in model.parameters())
    assert torch.allclose(answers(tmp_path / "m.onnx", prepared(model)), model(prepared(model)).detach(), atol=1e-4)


@pytest.mark.parametrize("kind", [Onnx, Program])
def test_an_artefact_that_answers_otherwise_is_refused(kind: Any, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight is changed between the model and the file; what was at the path stays."""
    true_write = kind.write

    def write(self: Any, model: Any, *args: Any, **words: Any) -> None:
        weight = model.model.head.linear.weight
        with torch.no_grad():
            weight[0, 0] += 0.05
            true_write(self, model, *args, **words)
            weight[0, 0] -= 0.05

    monkeypatch.setattr(kind, "write", write)
    path = tmp_path / f"m{kind.suffix}"
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"does not answer like the model.*Nothing was written"):
        export(small("vit_ti16"), path, images=list(pictures()), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "mine"


class Forgetful(nn.Module):
    """Looks at the number of images where it must not: right when traced, wrong at other counts."""

    channels, strides = (3,), (1,)

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3)) * (2 if torch.compiler.is_compiling() else image.shape[0])


def test_a_program_that_holds_for_one_batch_only_is_refused(tmp_path: Path) -> None:
    model = Classifier(Forgetful(), nn.Linear(3, 4), tiny("vit_ti16").config).eval()
    with pytest.raises(ExportError, match="does not answer like the model"):
        export(model, tmp_path / "m.pt2", images=list(pictures()))
    assert not list(tmp_path.iterdir())


def test_a_damaged_artefact_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Onnx, "write", lambda self, model, example, path, **words: path.write_bytes(b"\x08\x07"))
    with pytest.raises(ExportError, match="does not load"):
        export(small("vit_ti16"), tmp_path / "m.onnx", images=list(pictures()))
    assert not list(tmp_path.iterdir())


def test_images_are_needed_and_must_be_images(tmp_path: Path) -> None:
    model, path = small("vit_ti16"), tmp_path / "out" / "m.pt2"
    for none in (None, []):
        with pytest.raises(ExportError, match="real images"):
            export(model, path, images=none)
    for wrong in (tmp_path, ["no/such.png"], [3], 3, [np.zeros((3, 4, 5, 6))]):
        with pytest.raises(DataError):
            export(model, path, images=wrong)
    assert not path.parent.exists()
    for i, picture in enumerate(pictures()[:2]):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert export(model, path, images=tmp_path).samples == 2
    assert export(model, path, images=[noise(3, 64, 64), noise(1, 3, 50, 60)], overwrite=True).samples == 2
    many = [pictures()[i % 3] for i in range(40)]
    assert export(model, path, images=many, overwrite=True).samples == 32


def test_what_stands_there_is_kept(tmp_path: Path) -> None:
    model, path = small("vit_ti16"), tmp_path / "m.pt2"
    for name in (path.name, path.name + ".json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ExportError, match="exists already"):
            export(model, path, images=list(pictures()))
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    path.write_text("mine")
    assert export(model, path, images=list(pictures()), overwrite=True).bytes == path.stat().st_size > 1000


def test_requests_that_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small("vit_ti16"), list(pictures())

    def refused(match: str, *, what: nn.Module = model, path: str = "m.onnx", **words: Any) -> None:
        with pytest.raises(ExportError, match=match):
            export(what, tmp_path / path, images=images, **words)
        assert not list(tmp_path.iterdir())

    refused(r"Did you mean '\.onnx'", path="m.onx")
    refused(r"end it in \.onnx or \.pt2", path="m")
    refused("Did you mean 'onnx'", format="onx")
    refused("size is 'big'", size="big")
    refused("size is", size=(64,))
    refused("size is 64", size=64)
    refused("batch is 0", batch=0)
    refused("batch is 'many'", batch="many")
    refused("tolerance", tolerance=0.0)
    refused("model of vitrail", what=model.backbone)
    refused("float32", what=small("vit_ti16").half())
    blank = small("vit_ti16")
    nn.init.zeros_(blank.head.linear.weight)
    nn.init.zeros_(blank.head.linear.bias)
    refused("trained weights", what=blank, path="m.pt2")
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(MissingExtra, match=r"vitrail\[onnx\]"):
        export(model, tmp_path / "m.onnx", images=images)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VitrailError, match="file"):
        export(small("vit_ti16"), tmp_path / "file" / "m.pt2", images=list(pictures()))


def test_a_format_can_be_named_and_a_model_in_training_stays_so(tmp_path: Path,
                                                                capfd: pytest.CaptureFixture[str]) -> None:
    model = small("vit_ti16").train()
    made = vitrail.export(model, tmp_path / "m.bin", images=list(pictures()), format="onnx")
    assert made.format == "onnx" and (tmp_path / "m.bin").is_file() and all(part.training for part in model.modules())
    assert "m.bin: " in str(made)
    assert capfd.readouterr() == ("", "")                                   # the exporters' noise is nobody's
