"""evaluate, predict, explain on a run that the command line trained."""
import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.cli.conftest import Ask, draw


def test_evaluate_the_images_that_the_run_held_out(ask: Ask, run: Path) -> None:
    found = ask("evaluate", run, "--held-out-of-run", "--json").json
    assert found["samples"] == 8 and found["labels"] == ["dark", "light"]
    assert found["scores"]["top1"]["low"] <= found["scores"]["top1"]["value"] <= found["scores"]["top1"]["high"]
    said = ask("evaluate", run, "--held-out-of-run").out
    assert "8 images of 2 classes" in said and "top-1 accuracy" in said and " % " in said


def test_evaluate_a_run_its_model_and_its_weights_alike(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    first, second = (ask("evaluate", model, photos, "--json").json["scores"] for model in (run, run / "model"))
    assert first == second
    model = vitrail.create_model("vit_ti16", classes=1000)
    weights = vitrail.save_weights(model, tmp_path / "w.safetensors")
    found = ask("predict", "vit_ti16", photos / "dark" / "0.png", "--weights", weights, "--json").json
    assert found["model"] == "vit_ti16" and 0 <= int(found["predictions"][0]["label"]) < 1000


def test_evaluate_writes_what_it_found_and_replaces_nothing(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "deep" / "e.json", tmp_path / "e.html"
    assert ask("evaluate", run, photos, "--out", out, "--html", page).code == 0
    assert '"predictions"' in out.read_text() and "<html" in page.read_text()
    for words in (["--out", out], ["--html", page]):
        before = out.read_bytes(), page.read_bytes()
        found = ask("evaluate", run, photos, *words)
        assert found.code == 1 and "exists already" in found.err and (out.read_bytes(), page.read_bytes()) == before
    assert ask("evaluate", run, photos, "--out", out, "--overwrite").code == 0


def test_evaluate_refuses_images_that_have_changed_since(ask: Ask, run: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "photos")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    settings = (copy / "settings.toml").read_text()
    old = next(line for line in settings.splitlines() if line.startswith("source = "))
    (copy / "settings.toml").write_text(settings.replace(old, f'source = "{folder}"'))
    assert ask("evaluate", copy, "--held-out-of-run").code == 0                 # the same images elsewhere
    for file in folder.rglob("*.png"):
        Image.new("RGB", (9, 9)).save(file)
    found = ask("evaluate", copy, "--held-out-of-run")
    assert found.code == 1 and "has changed" in found.err


@pytest.mark.parametrize(("words", "code", "said"), [
    (["{run}"], 2, "--held-out-of-run"), (["{run}", "{photos}", "--held-out-of-run"], 2, "either"),
    (["{run}/model", "--held-out-of-run"], 1, "not the folder of a run"), (["{photos}", "{photos}"], 1, "config.json"),
    (["{run}", "{photos}/dark"], 1, "class"), (["{run}", "digits"], 1, "'0'"), (["{run}", "{photos}s"], 1, "'photos'"),
    (["{run}", "{photos}", "--split", "vall"], 2, "'val'"),
    (["{run}", "{photos}", "--split", "val"], 1, "no val split"),
    (["{run}", "{photos}", "--device", "cuda:9"], 2, "cuda:9"), (["{run}", "{photos}", "--device", "gpu"], 2, "'gpu'"),
    (["{run}", "{photos}", "--weights", "x"], 2, "leave out --weights"),
    (["{run}", "{photos}", "--on-error", "skp"], 2, "'skip'"),
    (["{run}/model/config.json", "{photos}"], 2, "is a file"),
    (["{run}", "{photos}", "--out", "{photos}"], 1, "exists"),
    (["vit_ti16", "{photos}", "--weights", "nope"], 2, "no release"),
    (["vit_ti16", "{photos}", "--weights", "{run}/model/model.safetensors"], 1, "has shape")])
def test_evaluate_asked_wrongly(ask: Ask, run: Path, photos: Path, words: list[str], code: int, said: str) -> None:
    found = ask("evaluate", *(w.format(run=run, photos=photos) for w in words))
    assert found.code == code and said in found.err and found.err.startswith("error: ")
    assert len(found.err.splitlines()) <= 2


def test_predict_files_and_folders(ask: Ask, run: Path, photos: Path) -> None:
    image = photos / "dark" / "0.png"
    found = ask("predict", run, image, photos / "light", "--top", "2", "--json").json
    assert len(found["predictions"]) == 21 and found["predictions"][0]["file"] == str(image)
    first = found["predictions"][0]
    assert first["label"] == first["top"][0]["label"] and first["probability"] == first["top"][0]["probability"]
    assert sum(t["probability"] for t in first["top"]) == pytest.approx(1)
    rows = list(csv.DictReader(io.StringIO(ask("predict", run, image, "--top", "2", "--csv").out)))
    assert [rows[0]["label"], rows[0]["label_2"]] == [t["label"] for t in first["top"]] and rows[0]["error"] == ""
    assert float(rows[0]["probability"]) == pytest.approx(first["probability"], abs=1e-6)
    assert first["label"] in ask("predict", run, image).out


def test_predict_goes_on_after_what_is_no_image_where_that_is_asked(ask: Ask, run: Path, photos: Path,
                                                                    tmp_path: Path) -> None:
    bad, good = tmp_path / "bad, really.png", photos / "dark" / "0.png"
    bad.write_bytes(b"no picture")
    stopped = ask("predict", run, bad, good)
    assert stopped.code == 1 and "bad, really.png" in stopped.err and not stopped.out
    went_on = ask("predict", run, bad, good, "--on-error", "skip", "--json")
    first, second = went_on.json["predictions"]
    assert went_on.code == 0 and first["label"] is None and "bad" in first["error"] and second["error"] is None
    rows = list(csv.DictReader(io.StringIO(ask("predict", run, bad, good, "--on-error", "skip", "--csv").out)))
    assert rows[0]["label"] == "" and "bad" in rows[0]["error"] and rows[1]["label"] == second["label"]
    assert ask("predict", run, bad, "--on-error", "skip").code == 1


@pytest.mark.parametrize(("words", "code", "said"), [
    (["{run}", "{photos}/dark/0.pn"], 1, "'0.png'"), (["{run}", ""], 1, "no file or folder ''"),
    (["{run}", "a\0b"], 1, ""),
    (["{run}", "{photos}", "--json", "--csv"], 2, "not both"), (["{run}", "{photos}", "--top", "0"], 2, "'top'"),
    (["{run}", "{photos}", "--batch", "x"], 2, "whole number"), (["{run}", "x" * 5000], 1, ""),
    (["a\0b", "{photos}"], 2, "no folder"), (["", "{photos}"], 2, "''"), (["x" * 5000, "{photos}"], 2, "neither"),
    (["{run}", "~nobody-of-that-name/x.png"], 1, "nobody")])
def test_predict_asked_wrongly(ask: Ask, run: Path, photos: Path, words: list[str], code: int, said: str) -> None:
    found = ask("predict", *(w.format(run=run, photos=photos) for w in words))
    assert found.code == code and said in found.err and found.err.startswith("error: ")


def test_a_damaged_model_is_refused(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        shutil.copytree(run / "model", tmp_path / name)
        return tmp_path / name

    with open(broken("bits") / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"oops")
    (broken("json") / "config.json").write_text("{")
    (broken("gone") / "model.safetensors").unlink()
    for name in ("bits", "json", "gone"):
        found = ask("predict", tmp_path / name, photos / "dark" / "0.png")
        assert found.code == 1 and name in found.err and len(found.err.splitlines()) == 1


@pytest.mark.parametrize(("method", "more"), [("relevance", []), ("rollout", []),
("attention", ["--layer", "-1", "--head", "1"]),
                                              ("gradcam", ["--target", "light"])])
def test_explain_writes_an_overlay_an_image(ask: Ask, run: Path, photos: Path, tmp_path: Path, method: str,
                                            more: list[str]) -> None:
    images = [photos / "dark" / "1.png", photos / "light" / "1.png"]
    found = ask("explain", run, *images, "--method", method, *more, "--out", tmp_path, "--arrays", "--json").json
    assert [f["input"] for f in found] == list(map(str, images)) and all(f["method"] == method for f in found)
    assert [Path(f["overlay"]).name for f in found] == [f"1-{method}.png", f"1-2-{method}.png"]
    for f in found:
        with Image.open(f["overlay"]) as image:
            assert image.mode == "RGB"
        assert np.load(f["array"], allow_pickle=False).shape == (2, 2)
    assert method != "gradcam" or {f["label"] for f in found} == {"light"}
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    again = ask("explain", run, images[1], "--method", method, *more, "--out", tmp_path)
    assert again.code == 1 and "exists already" in again.err
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_explain_takes_a_class_by_its_number_and_folders(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    found = ask("explain", run, photos / "dark", "--target", "1", "--out", tmp_path / "new")
    assert found.code == 0 and "light" in found.out and len(list((tmp_path / "new").iterdir())) == 20


@pytest.mark.parametrize(("words", "code", "said"), [
    (["--target", "lihgt"], 1, "'light'"), (["--target", "9"], 1, "2 classes"), (["--target", "-1"], 1, "2 classes"),
    (["--layer", "1"], 2, "--layer is for"), (["--head", "0", "--method", "gradcam"], 2, "--head"),
    (["--head", "9", "--method", "attention"], 1, "2 heads"), (["--layer", "9", "--method", "attention"], 1, "layer"),
    (["--layer", "bloks", "--method", "attention"], 1, "bloks"),
    (["--method", "gradcam", "--layer", "nope"], 1, "nope"),
    (["--head", "x", "--method", "attention"], 2, "whole number")])
def test_explain_asked_wrongly(ask: Ask, run: Path, photos: Path, tmp_path: Path, words: list[str], code: int,
                               said: str) -> None:
    found = ask("explain", run, photos / "dark" / "0.png", "--out", tmp_path / "o", *words)
    assert found.code == code and said in found.err and not (tmp_path / "o").exists()


def test_explain_into_a_file_is_refused(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = ask("explain", run, photos / "dark" / "0.png", "--out", tmp_path / "file")
    assert found.code == 1 and (tmp_path / "file").read_text() == "mine" and len(found.err.splitlines()) == 1


def test_evaluate_says_what_was_learned_from(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    found = ask("evaluate", run, photos)
    assert "learned from 32 of these 40 samples" in found.err and "--held-out-of-run" in found.err
    assert "learned from 32" in ask("evaluate", run, photos / "dark" / "..").err, "the same folder by another name"
    assert not ask("evaluate", run, "--held-out-of-run").err
    assert not ask("evaluate", run, draw(tmp_path / "photos")).err, "the same names elsewhere are other images"
    assert not ask("evaluate", run / "model", photos).err, "a saved model does not know"


def test_a_run_that_is_not_finished_is_called_so(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    found = ask("predict", tmp_path / "run", photos / "dark" / "0.png")
    assert found.code == 1 and "has not finished" in found.err


def test_a_file_far_from_the_name_given_is_not_suggested(ask: Ask, run: Path, photos: Path) -> None:
    assert "Did you mean" not in ask("predict", run, photos / "dark" / "holiday.jpg").err
    assert "Did you mean '11.png'" in ask("predict", run, photos / "dark" / "11.pgn").err


def test_an_image_that_cannot_be_read_is_left_out_where_that_is_asked(ask: Ask, run: Path, photos: Path,
                                                                      tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.png", photos / "dark" / "0.png"
    bad.write_bytes(b"no picture")
    for words in (["predict", run, bad], ["explain", run, bad, "--out", tmp_path / "o"]):
        stopped, nothing = ask(*words), ask(*words, "--on-error", "skip")
        assert stopped.code == 1 and "--on-error skip leaves such files out" in stopped.err
        assert nothing.code == 1 and nothing.out == "" and nothing.err.startswith("left out: ")
    found = ask("explain", run, bad, good, "--out", tmp_path / "o", "--on-error", "skip", "--json")
    assert found.code == 0 and [f["input"] for f in found.json] == [str(good)] and "bad.png" in found.err
    csv_of_none = ask("predict", run, bad, "--on-error", "skip", "--csv").out.splitlines()
    assert len(list(csv.reader(csv_of_none))[1]) == len(list(csv.reader(csv_of_none))[0])
