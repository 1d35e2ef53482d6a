"""vitrail export."""
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Ask
from vitrail.cli.export import parse_batch, parse_size
from vitrail.report.exports import exports


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_export_writes_a_checked_file_and_replaces_none(ask: Ask, run: Path, photos: Path, tmp_path: Path,
                                                        suffix: str) -> None:
    out = tmp_path / f"m{suffix}"
    found = ask("export", run, out, "--images", photos, "--json")
    assert found.code == 0, found.err
    verdict = found.json
    assert verdict["path"] == str(out) and verdict["samples"] > 8 and verdict["agreement"] == 1
    assert verdict["difference"] <= verdict["tolerance"] * verdict["scale"] and verdict["batch"] == "dynamic"
    assert verdict["size"] == [16, 16] and out.stat().st_size == verdict["bytes"]
    before = out.read_bytes()
    again = ask("export", run, out, "--images", photos)
    assert again.code == 1 and "exists already" in again.err and out.read_bytes() == before


def test_export_of_one_size_and_batch_says_what_it_checked(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.pt2"
    found = ask("export", run / "model", out, "--images", photos / "dark", "--size", "24", "16", "--batch", "2")
    assert found.code == 0 and found.out.startswith(f"{out}: ") and "answers agree" in found.out and out.is_file()


def test_sizes_and_batches() -> None:
    assert parse_size([]) is None and parse_size(["dynamic"]) == "dynamic"
    assert parse_size(["224"]) == (224, 224) and parse_size(["224", "320"]) == (224, 320)
    assert parse_batch("dynamic") == "dynamic" and parse_batch("8") == 8


@pytest.mark.parametrize(("words", "code", "said"), [
    (["{run}", "m.onx"], 2, "'.onnx'"), (["{run}", "m"], 2, ".onnx"), (["{run}s", "m.onnx"], 2, "'first'"),
    (["vit_s16", "m.onnx"], 2, "--weights"), (["{run}", "m.pt2", "--size", "0"], 2, "--size"),
    (["{run}", "m.pt2", "--size", "1", "2", "3"], 2, "height and a width"),
    (["{run}", "m.pt2", "--size", "dynamc"], 2, "'dynamic'"),
    (["{run}", "m.pt2", "--size", "9" * 5000], 2, "--size"), (["{run}", "m.pt2", "--size", "²"], 2, "--size"),
    (["{run}", "m.pt2", "--batch", "two"], 2, "--batch"), (["{run}", "m.pt2", "--batch", "0"], 2, "--batch"),
    (["{run}", "m.pt2", "--size"], 2, "--size"), (["{run}", "m.pt2", "more.pt2"], 2, "'more.pt2'"),
    (["--size", "16", "16", "{run}", "m.pt2"], 2, "MODEL")])
def test_export_asked_wrongly(ask: Ask, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                              words: list[str], code: int, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = ask("export", *(w.format(run=run) for w in words), "--images", photos)
    assert found.code == code and said in found.err and not list(tmp_path.iterdir())


def test_export_needs_images_that_are_there(ask: Ask, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for images, said in ((tmp_path / "emptty", "'empty'"), (tmp_path / "empty", "holds no image")):
        found = ask("export", run, tmp_path / "m.pt2", "--images", images)
        assert found.code == 1 and said in found.err and [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_a_run_keeps_a_list_of_its_exports(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "run", tmp_path / "m.pt2"
    shutil.copytree(run, copy)
    for _ in range(2):
        made = ask("export", copy, out, "--images", photos, "--json", "--overwrite", "--threads", "1").json
    assert [e for e in exports(copy) if e["path"] == str(out)] == [made]
    assert ask("export", copy / "model", tmp_path / "n.pt2", "--images", photos).code == 0
    assert not (copy / "model" / "exports.json").exists()
    (copy / "exports.json").unlink()
    (copy / "exports.json").mkdir()
    found = ask("export", copy, out, "--images", photos, "--overwrite")
    assert found.code == 0 and "was not brought up to date" in found.err and out.is_file()
