"""The page about a run: whole in itself, true, and unmoved by what users call their classes and files."""
import base64
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.report.page import Page
from vitrail.core.errors import VitrailError
from vitrail.core.task import Options
from vitrail.data.dataset import Sample, Skipped
from vitrail.models import create_model
from vitrail.report.build import write_report
from vitrail.report.exports import exports, note_export
from vitrail.tasks.classification.evaluate import Evaluation, evaluate
from vitrail.tasks.classification.model import Classifier

HOSTILE = ("<script>alert(1)</script>", "\"><img src=http://x.org/a.png onerror='alert(2)'>", "a & b &amp; c &lt;",
           "שלום עולם", "猫と犬", "$\\frac{$", "{{ 7 * 7 }}{% raw %}", "x" * 400,
           "'; DROP TABLE runs; --", "</svg></style>-->")


class Noise:
    """Seeded pictures in memory, under labels and keys of any kind."""

    name, splits = "pictures", dict[str, tuple[int, ...]]()

    def __init__(self, classes: Sequence[str], labels: Sequence[int], keys: Sequence[str] = (),
                 skipped: tuple[Skipped, ...] = ()):
        self.classes, self.labels, self.skipped = tuple(classes), list(labels), skipped
        self.keys = list(keys) or [f"{n}.png" for n in range(len(self.labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        return self.keys[index]

    def targets(self, index: int) -> dict[str, int]:
        return {"class": self.labels[index]}

    def stratum(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def group(self, index: int) -> str:
        return ""

    def stored(self, index: int) -> bytes:
        return bytes([index])

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"image": self.image(index)}, self.targets(index))

    def image(self, index: int) -> Tensor:
        return torch.randint(256, (3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))

    def digest(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return f"{len(self)} pictures"


def vit(classes: Sequence[str]) -> Classifier:
    """One that answers by what it sees: a new head would not."""
    torch.manual_seed(0)
    model = create_model("vit_ti16", labels=tuple(classes), depth=2, dim=32, heads=2, patch=8, image=16)
    for p in model.head.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


def judged(model: Classifier, source: Noise) -> Evaluation:
    return evaluate(model, source, Options(on_error="skip"), resamples=20)


def report(folder: Path, model: Classifier, source: Noise, **more: Any) -> Page:
    """The page, which fetches and runs nothing and whose pictures can all be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")                      # nothing is said on the way
        warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
        path = write_report(folder, model, judged(model, source), source, **more)
    page = Page(path.read_text("utf-8"))
    assert page.fetches() == [] and page.runs() == []
    for image in (a["src"] for tag, a in page.elements if tag == "img"):
        Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))).load()
    return page


def write_run(folder: Path, source: Noise, *, finish: str = "best") -> Path:
    """A run's papers, as the loop leaves them."""
    records = [{"kind": "train", "step": s, "epoch": 1 + s // 5, "loss": 2 / s, "lr": 1e-3} for s in range(1, 10)]
    records += [{"kind": "eval", "step": 5 * e, "epoch": e, "top1": e / 4, "nll": 1 / e} for e in (1, 2)]
    lines = [*map(json.dumps, records), '{"kind": "eval", "step": 15, "epoch": 3, "top1": null}', '{"kind": "tr']
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    held = {"name": source.name, "samples": len(source), "fingerprint": source.fingerprint()}
    settings = {"lr": 0.25, "finish": finish, "out": "<b>"}
    (folder / "run.json").write_text(json.dumps({
        "sessions": [{"settings": settings, "command": ["vitrail", "train", "a b"]}],
        "task": {"classes": list(source.classes), "data": {"val": held}, "record": {"train": ["k"] * 99}}}))
    return folder


def test_the_page_of_a_run_tells_of_it(tmp_path: Path) -> None:
    source = Noise("ab", [n % 2 for n in range(12)])
    page = report(write_run(tmp_path / "run", source), vit("ab"), source)
    rows, tiles = page.texts["tr"], page.texts["b"]
    share = judged(vit("ab"), source).scores["top1"].value
    assert f"{100 * share:.2f} %" in tiles and "12" in tiles
    assert any(r.startswith("lr0.25") for r in rows) and any("vitrail train 'a b'" in r for r in rows)
    assert "Held-out scores" in page.texts["h2"] and "Attention by layer and head" in page.texts["h2"]
    assert any("scored best on these samples, which flatters them" in p for p in page.texts["p"])
    assert sum(tag == "svg" for tag, _ in page.elements) == 3 and "No log was kept." not in page.texts["p"]
    assert any("relevance, arXiv:2103.15679" in p for p in page.texts["p"])


def test_the_last_weights_are_not_said_to_be_chosen(tmp_path: Path) -> None:
    source = Noise("ab", [0, 1, 0, 1])
    page = report(write_run(tmp_path / "run", source, finish="last"), vit("ab"), source)
    assert any("those of the end of the run" in p for p in page.texts["p"])
    assert not any("flatters" in p for p in page.texts["p"])


def test_images_that_were_not_held_out_are_not_called_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Noise("ab", [0, 1]))
    page = report(run, vit("ab"), Noise("ab", [0, 1, 1]), path=tmp_path / "elsewhere.html")
    assert "Scores on pictures" in page.texts["h2"] and "Held-out scores" not in page.texts["h2"]
    assert not any("held out" in t for t in page.texts["span"]) and not any("flatters" in p for p in page.texts["p"])
    assert (tmp_path / "elsewhere.html").is_file() and not (run / "report.html").exists()


def test_a_model_without_a_run_has_a_page(tmp_path: Path) -> None:
    page = report(tmp_path, vit("ab"), Noise("ab", [0, 1, 0]))
    assert "No log was kept." in page.texts["p"] and any("Nothing was exported" in p for p in page.texts["p"])


@pytest.mark.parametrize("papers", ["", "[]", "{", "null", '{"task": null, "sessions": []}', "[" * 100_000])
def test_papers_that_cannot_be_read_are_left_out(tmp_path: Path, papers: str) -> None:
    for name in ("run.json", "metrics.jsonl", "exports.json"):
        (tmp_path / name).write_text(papers)
    page = report(tmp_path, vit("ab"), Noise("ab", [0, 1, 0]))
    assert "No log was kept." in page.texts["p"]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    many = len(HOSTILE)
    source = Noise(HOSTILE, [n % many for n in range(2 * many)],
                   keys=[f"{name}/{n}" for n in range(2) for name in HOSTILE],
                   skipped=tuple(Skipped(name, f"broken: {name}") for name in HOSTILE))
    source.name = HOSTILE[1]
    note_export(tmp_path, {"path": "x/<img src=x onerror=alert(3)>.onnx", "format": HOSTILE[0], "images": "<i>",
                           "difference": 1e-6})
    page = report(tmp_path, vit(HOSTILE), source)
    cells = set(page.texts["bdi"])
    assert set(HOSTILE) <= cells, "each name as it is, character by character"
    assert {source.key(p.index) for p in judged(vit(HOSTILE), source).worst(12)} <= cells
    assert all(f"{name}broken: {name}" in page.texts["tr"] for name in HOSTILE)
    plain = report(tmp_path, vit("ab"), Noise("ab", [0, 1, 0, 1], skipped=(Skipped("a", "b"),)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}, "no element of theirs"
    assert "49" not in page.texts["h1"][0]


def test_a_network_without_attention_is_explained_by_grad_cam(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet18", labels=("a", "b", "c"), dim=8, depths=(1, 1, 1, 1))
    source = Noise("abc", [n % 3 for n in range(6)])
    page = report(tmp_path, model, source)
    assert any("Grad-CAM" in p for p in page.texts["p"]) and "Attention by layer and head" not in page.texts["h2"]
    assert sum(tag == "img" for tag, _ in page.elements) == 2 * len(judged(model, source).worst(12)) > 0


def test_a_model_that_learned_nothing_has_a_page(tmp_path: Path) -> None:
    model = create_model("vit_ti16", labels=("a", "b"), depth=2, dim=32, heads=2, patch=8, image=16)
    assert not model(torch.randn(1, 3, 16, 16)).any(), "a new head, of zeros"
    page = report(tmp_path, model, Noise("ab", [0, 1]))
    assert any("the same scores whatever it sees" in p for p in page.texts["p"])


def test_a_perfect_model_has_no_mistakes_to_show(tmp_path: Path) -> None:
    model, source = vit("abc"), Noise("abc", [0] * 6)
    source.labels = [source.classes.index(p.predicted) for p in judged(model, source).predictions]
    page = report(tmp_path, model, source)
    assert "None: every held-out image was answered right." not in page.texts["p"], "they were held out of nothing"
    assert "None: every image was answered right." in page.texts["p"] and "100.00 %" in page.texts["b"]


@pytest.mark.parametrize("count", [2, 60])
def test_few_and_many_classes(tmp_path: Path, count: int) -> None:
    names = [f"class {n}" for n in range(count)]
    source = Noise(names, [n % count for n in range(count + 7)])
    page = report(write_run(tmp_path / "run", source), vit(names), source)
    assert [t for t in page.texts["td"] if t in names] == names         # the table of classes, in their order
    drawn = [t for t in page.texts["text"] if t in names]
    assert len(drawn) == (4 if count == 2 else 0), "names beside the confusion, as long as they can be read there"


def test_exports_are_listed_once_a_file(tmp_path: Path) -> None:
    assert exports(tmp_path) == []
    for path, difference in (("a.onnx", 1e-3), ("b.pt2", 2e-6), ("a.onnx", 3e-6)):
        note_export(tmp_path, {"path": path, "format": "onnx", "images": 3, "difference": difference})
    assert [(e["path"], e["difference"]) for e in exports(tmp_path)] == [("b.pt2", 2e-6), ("a.onnx", 3e-6)]
    rows = report(tmp_path, vit("ab"), Noise("ab", [0, 1])).texts["tr"]
    assert [r for r in rows if r.startswith("a.onnx")] == ["a.onnxonnx33.0e-06\nsame answers as the model"]


def test_a_page_that_cannot_be_written_is_an_error_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    source = Noise("ab", [0, 1])
    with pytest.raises(VitrailError, match="file"):
        write_report(tmp_path, vit("ab"), judged(vit("ab"), source), source, path=tmp_path / "file" / "report.html")
    assert (tmp_path / "file").read_text() == "mine"
