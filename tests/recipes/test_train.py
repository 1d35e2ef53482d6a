"""The main job as the recipe does it: from a folder of pictures to a judged run, and what it refuses before."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.made import NAMES, TINY, draw, tiny
from vitrail.core.config import Preprocessing
from vitrail.core.errors import DataError, ModelError, SettingsError, VitrailError
from vitrail.core.task import Options, find_task
from vitrail.models import create_model, load_model, save_model
from vitrail.recipes import demo
from vitrail.recipes import train as recipe
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.classification import setup
from vitrail.tasks.classification.evaluate import evaluate

ROOT = Path(__file__).parents[2]
TASK = find_task("classification")


def run_recipe(settings: ClassificationSettings) -> Path:
    return recipe.train(TASK, settings)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("recipes") / "photos")


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ClassificationSettings:
    settings = tiny(photos, tmp_path_factory.mktemp("runs") / "first", epochs=6, finish="last")
    assert run_recipe(settings) == Path(settings.out)
    return settings


def log(run: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if r["kind"] == kind]


def test_a_run_holds_what_it_promises(done: ClassificationSettings) -> None:
    run = Path(done.out)
    for name in ("settings.toml", "run.json", "metrics.jsonl", "evaluation.json", "report.html", "model/config.json",
                 "model/model.safetensors", "checkpoints/best.json"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").iterdir()) and ClassificationSettings.read(run / "settings.toml") == done
    papers = json.loads((run / "run.json").read_text())
    assert papers["finished"]["steps"] == 18 and papers["task"]["classes"] == list(NAMES)
    held, trained = (papers["task"]["record"][side] for side in ("val", "train"))
    assert len(held) == 6 and len(trained) == 30 and not set(held) & set(trained)
    assert len(log(run, "eval")) == 6 and log(run, "train")[-1]["step"] == 18


def test_the_evaluation_on_disk_is_what_evaluate_finds(done: ClassificationSettings) -> None:
    run, held_out = Path(done.out), setup.open_splits(done).val
    found = evaluate(load_model(run), held_out, Options(batch=5))
    there = json.loads((run / "evaluation.json").read_text())
    here = json.loads(json.dumps(found.to_json()))
    for side in (there, here):
        for name in ("predictions", "reliability"):             # sums of floats, which another batch orders otherwise
            for record in side[name]:
                record.update({k: pytest.approx(v, rel=1e-4) for k, v in record.items() if isinstance(v, float)})
                record.pop("top", None)
    assert [p["key"] for p in there["predictions"]] == [p["key"] for p in here["predictions"]]
    assert there["confusion"] == here["confusion"] and there["per_class"] == here["per_class"]
    assert there["scores"]["top1"] == here["scores"]["top1"] and there["scores"]["top1"]["value"] == 1.0
    assert there["scores"]["nll"]["value"] == pytest.approx(here["scores"]["nll"]["value"], rel=1e-4)
    assert log(run, "eval")[-1]["top1"] == there["scores"]["top1"]["value"]


def test_it_says_what_it_does_and_a_finished_run_is_left_as_it_is(photos: Path, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(photos, tmp_path / "run", epochs=1)
    run_recipe(settings)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (f"vit_ti16 on {photos}: 30 images of 3 classes to learn from, "
                       "6 held out (0.2 of each class, seed 0)")
    assert "parameters in fp32 on cpu: 1 epoch of 3 steps of 8 samples" in said[1] and settings.out in said[1]
    assert said[2].startswith("epoch 1/1, step ") and "top1" in said[3]
    assert said[4].startswith("evaluating on 6 held-out samples")
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    run_recipe(settings)
    assert "nothing is trained" in capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("changes", "kind", "said"), [
    ({"model": "vit_s61"}, ModelError, "vit_s16"), ({"set": ("dpth=1",)}, ModelError, "'depth'"),
    ({"set": ("dim=32", "heads=5")}, ModelError, "cannot be built"),
    ({"set": ("image=32", "depth=1")}, SettingsError, "image=32"),
    ({"teacher": "nowhere", "distillation": "hard"}, SettingsError, "nowhere"),
    ({"out": str(ROOT)}, SettingsError, "no run's"), ({"resume": "must"}, SettingsError, "resume")])
def test_wrong_settings_are_found_before_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       changes: dict[str, Any], kind: type[VitrailError],
                                                       said: str) -> None:
    def read(*words: object, **more: object) -> None:
        raise AssertionError("the data were opened")
    monkeypatch.setattr(setup, "open_dataset", read)
    with pytest.raises(kind, match=said):
        run_recipe(tiny(tmp_path / "none", tmp_path / "run").updated(**changes))
    assert not (tmp_path / "run").exists()
    with pytest.raises(AssertionError, match="were opened"):
        run_recipe(tiny(tmp_path / "none", tmp_path / "run"))


@pytest.mark.parametrize("changes", [{"teacher": "there"}, {"distillation": "soft"}, {"set": ("depth",)},
                                     {"set": ("depth=1", "depth=2")}])
def test_settings_that_contradict_themselves_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ClassificationSettings.of({**TINY, "out": "x", **changes})


@pytest.mark.parametrize("text, value", [
    ("depths=2,2,6,2", [2, 2, 6, 2]), ("depths=[2,2]", [2, 2]), ("depth=6", 6), ("mlp_ratios=3.5,4", [3.5, 4]),
    ("name=a,b", "a,b"), ('name="2,2"', "2,2")])
def test_numbers_with_commas_are_a_list(text: str, value: object) -> None:
    assert list(ClassificationSettings.of({**TINY, "out": "x", "set": (text,)}).model.arguments().values()) == [value]


def test_named_images_are_held_out(photos: Path, tmp_path: Path) -> None:
    held = draw(tmp_path / "held", names=NAMES[:2], count=3, seed=1)
    splits = setup.open_splits(tiny(photos, tmp_path / "run", val=str(held)))
    assert len(splits.train) == 36 and len(splits.val) == 6 and splits.val.classes == NAMES
    assert splits.record == {"how": "named", "train": str(photos), "val": str(held)}


@pytest.mark.parametrize(("names", "said"), [(("dark", "mauve"), "'mauve'"),
                                             (("drak", "light"), "Did you mean 'dark'")])
def test_held_out_images_of_other_classes_are_refused(photos: Path, tmp_path: Path, names: tuple[str, ...],
                                                      said: str) -> None:
    held = draw(tmp_path / "held", names=names, count=2)
    with pytest.raises(DataError, match=said):
        run_recipe(tiny(photos, tmp_path / "run", val=str(held)))
    assert not (tmp_path / "run").exists()


def test_the_data_themselves_cannot_be_held_out(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave it out"):
        run_recipe(tiny(photos, tmp_path / "run", val=str(photos / "dark" / "..")))


def test_a_run_that_learned_nothing_gives_way_to_one_that_can(tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos")
    (photos / "dark" / "torn.png").write_bytes((photos / "dark" / "0.png").read_bytes()[:90])
    with pytest.raises(DataError, match="torn.png.*--on-error skip"):
        run_recipe(tiny(photos, tmp_path / "run", epochs=1))
    run = run_recipe(tiny(photos, tmp_path / "run", epochs=1, on_error="skip"))
    papers = json.loads((run / "run.json").read_text())
    assert [s["key"] for s in papers["task"]["data"]["train"]["skipped"]] == ["dark/torn.png"]
    assert len(papers["sessions"]) == 1 and ClassificationSettings.read(run / "settings.toml").data.on_error == "skip"
    with pytest.raises(SettingsError, match="holds another run"):           # now it has learned something
        run_recipe(tiny(photos, tmp_path / "run", epochs=1))


def test_a_mended_image_is_no_other_data_where_nothing_was_learned(tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos")
    whole = (photos / "dark" / "0.png").read_bytes()
    (photos / "dark" / "0.png").write_bytes(whole[:90])
    with pytest.raises(DataError):
        run_recipe(tiny(photos, tmp_path / "run", epochs=1, batch=10))
    (photos / "dark" / "0.png").write_bytes(whole)
    run = run_recipe(tiny(photos, tmp_path / "run", epochs=1, batch=10))
    (photos / "dark" / "0.png").write_bytes((photos / "dark" / "1.png").read_bytes())
    with pytest.raises(SettingsError, match="other data"):
        run_recipe(tiny(photos, run, epochs=1, batch=10, resume="must"))


def test_the_run_is_judged_on_its_own_device(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(recipe, "fit", lambda *words: None)
    monkeypatch.setattr(recipe, "pick_device", lambda name: f"the {name}")
    monkeypatch.setattr(recipe, "evaluate", lambda task, run, dataset, options, **more: asked.update(
        device=options.device, on_error=options.on_error, threads=torch.get_num_threads()))
    before = torch.get_num_threads()
    run_recipe(tiny(photos, tmp_path / "run", device="cpu", threads=before + 1, on_error="skip"))
    assert asked["device"] == "the cpu" and asked["on_error"] == "skip"
    assert asked["threads"] == before + 1 and torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_teacher_may_see_otherwise(photos: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    teacher = create_model("resnet18", labels=NAMES[::-1], dim=8, depths=(1, 1, 1, 1))
    teacher.config = replace(teacher.config, spec=replace(teacher.config.spec, preprocessing=Preprocessing(
        size=(24, 40), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), crop=0.9, interpolation="nearest")))
    save_model(teacher, tmp_path / "teacher")
    before = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    run = run_recipe(tiny(photos, tmp_path / "run", epochs=1, model="deit_ti16_distilled", distillation=kind,
                            teacher=str(tmp_path / "teacher"), mixup=0.2))
    lines = log(run, "train")
    assert lines and all(0 < line["distillation"] < 10 for line in lines)
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == before
    assert json.loads((run / "run.json").read_text())["task"]["teacher"]["model"] == "resnet18"
    assert load_model(run).config.spec.labels == NAMES


def test_a_teacher_of_other_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    save_model(create_model("resnet18", labels=("a", "b", "c"), dim=8), tmp_path / "teacher")
    with pytest.raises(VitrailError, match="class"):
        run_recipe(tiny(photos, tmp_path / "run", teacher=str(tmp_path / "teacher"), distillation="hard"))
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_two_processes_log_the_losses_of_one(photos: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = dict(model="deit_ti16_distilled", log_every=1, mixup=0.8, cutmix=1.0, clip=0.5, ema=0.9,
                                set=("depth=2", "dim=32", "heads=2", "patch=8", "drop_path=0.3"), randaugment=2)
    alone = run_recipe(tiny(photos, tmp_path / "one", **more))
    settings = tmp_path / "settings.toml"
    settings.write_text(tiny(photos, tmp_path / "two", strategy="ddp", **more).to_toml())
    made = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "vitrail", "train", "--settings", str(settings)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("held out: top-1") == 1 and "Warning" not in made.stderr, made.stderr
    ours, theirs = log(alone, "train"), log(tmp_path / "two", "train")
    assert len(ours) == len(theirs) == 6
    for one, two in zip(ours, theirs, strict=True):
        names = one.keys() - {"kind", "rate"}
        assert {n: two[n] for n in names} == pytest.approx({n: one[n] for n in names}, rel=1e-5)
    for one, two in zip(log(alone, "eval"), log(tmp_path / "two", "eval"), strict=True):
        assert two["nll"] == pytest.approx(one["nll"], rel=1e-5) and two["samples"] == one["samples"]


def test_the_demo_teaches_evaluates_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, epochs in ((demo.TEACHER, 12), (demo.STUDENT, 50)):
        assert part["epochs"] == epochs
        monkeypatch.setitem(part, "epochs", 1)
        monkeypatch.setitem(part, "val_fraction", 0.95)             # few to learn from, so that it is quick
        monkeypatch.setitem(part, "workers", 0)
    found = demo.run(tmp_path / "demo")
    assert set(found) == {"teacher", "student"} and all(0 <= v <= 1 for v in found.values())
    exported, = json.loads((tmp_path / "demo" / "exports.json").read_text())["exports"]
    assert exported["samples"] == 32 and exported["difference"] <= exported["tolerance"] * exported["scale"]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "model.onnx" in page and "same answers as the model" in page
    assert (tmp_path / "demo-teacher" / "report.html").is_file()
    student = json.loads((tmp_path / "demo" / "run.json").read_text())["task"]
    assert student["objective"]["distillation"]["kind"] == "hard" and student["teacher"]["model"] == "resnet18"
