"""From texts to a judged model: each kind of model by its recipe, resumed to the bit, and what is refused before."""
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.core.errors import CheckpointError, DataError, ModelError, SettingsError, VitrailError
from vitrail.core.task import find_task
from vitrail.tasks.language.vocabulary import Vocabulary
from vitrail.models import create_model, load_model, save_model
from vitrail.recipes import train as recipe
from vitrail.tasks.language import setup
from vitrail.tasks.language.settings import LanguageSettings
from vitrail.tasks.language.generate import fill, go_on, translate
from vitrail.training.run import Run

ROOT = Path(__file__).parents[2]
TASK = find_task("language")
SMALL: dict[str, Any] = dict(threads=1, batch=8, epochs=2, log_every=1, sentences=40)
KINDS: dict[str, dict[str, Any]] = {
    "transformer_tiny": dict(set=("dim=16", "hidden=32", "heads=2", "dropout=0.1")),
    "transformer_pre_tiny": dict(set=("dim=16", "hidden=32", "heads=2")),
    "seq2seq_tiny": dict(set=("dim=16", "hidden=16", "maxout=8")),
    "gpt_tiny": dict(data="page", set=("dim=16", "hidden=32", "heads=2", "dropout=0.1"), length=16, stride=150),
    "bert_tiny": dict(data="page", set=("dim=16", "hidden=32", "heads=2"), length=32, stride=150)}


def run_recipe(settings: LanguageSettings) -> Path:
    return recipe.train(TASK, settings)


def small(out: Path, name: str = "transformer_tiny", **changes: Any) -> LanguageSettings:
    return LanguageSettings.of({**SMALL, "out": str(out), "model": name, **KINDS[name], **changes})


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in found]


@pytest.mark.parametrize("name", KINDS)
def test_a_run_holds_what_it_promises(tmp_path: Path, name: str) -> None:
    settings = small(tmp_path / "run", name)
    run = run_recipe(settings)
    assert LanguageSettings.read(run / "settings.toml") == settings
    papers, found = (json.loads((run / file).read_text()) for file in ("run.json", "evaluation.json"))
    assert papers["task"]["task"] == found["task"] and papers["task"]["vocabulary"]["size"] > 7
    last = lines(run)[-1]
    assert last["kind"] == "eval" and last["step"] == papers["finished"]["steps"]
    if papers["finished"]["chosen"] == last["step"]:
        for score, value in found["scores"].items():
            assert last[score] == pytest.approx(value["value"], rel=1e-5)
    assert found["examples"] and found["samples"] == papers["task"]["samples"]["val"]
    model = load_model(run)
    assert model.config.model == name and model.config.task == "language"
    if found["task"] == "translation":
        for example in found["examples"]:
            assert translate(model, [example["source"]]) == [example["greedy"]]
        assert found["scores"]["exact"]["low"] <= found["scores"]["exact"]["value"] <= found["scores"]["exact"]["high"]
    elif found["task"] == "causal":
        assert go_on(model, found["examples"][0]["prompt"], seed=0) == [found["examples"][0]["continued"]]
        assert found["baselines"]["bigram"]["perplexity"] > 5
    else:
        assert fill(model, found["examples"][0]["text"]).text == found["examples"][0]["filled"]
        assert 0.05 < found["baselines"]["commonest unit"]["accuracy"] < 0.3


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("name", ["transformer_tiny", "gpt_tiny", "bert_tiny"])
def test_resume_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = run_recipe(small(tmp_path / "whole", name, save_every=2))
    for cut in (1, 3, 6):
        with monkeypatch.context() as patch:
            kind = type(objective_of(small(tmp_path / "x", name)))
            loss = kind.loss

            def dying(self: Any, model: nn.Module, batch: Any, step: int, loss: Any = loss,
                      cut: int = cut) -> dict[str, Tensor]:
                if step == cut:
                    raise PowerCut
                return loss(self, model, batch, step)                               # type: ignore[no-any-return]
            patch.setattr(kind, "loss", dying)
            with pytest.raises(PowerCut):
                run_recipe(small(tmp_path / "broken", name, save_every=2))
    broken = run_recipe(small(tmp_path / "broken", name, save_every=2))
    assert lines(broken) == lines(whole)
    for file in ("model/model.safetensors", "evaluation.json"):
        assert (broken / file).read_bytes() == (whole / file).read_bytes()


def objective_of(settings: LanguageSettings) -> Any:
    return setup.make_objective(settings, setup.open_splits(settings))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_recipe(small(tmp_path / "run"))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("transformer_tiny (translation) on toy: 36 samples of ")
    assert "different words to learn from, 4 held out (a share of 0.1, seed 0)" in said[0]
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    run_recipe(small(tmp_path / "run"))
    assert "nothing is trained" in capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before
    with pytest.raises(SettingsError, match="holds another run"):
        run_recipe(small(tmp_path / "run", sentences=41))


@pytest.mark.parametrize(("name", "changes", "kind", "said"), [
    ("transformer_tiny", {"model": "transfomer_tiny"}, ModelError, "transformer_tiny"),
    ("transformer_tiny", {"model": "vit_s16", "set": ()}, ModelError, "no model of text 'vit_s16'"),
    ("transformer_tiny", {"set": ("dpth=1",)}, ModelError, "'depth'"),
    ("transformer_tiny", {"set": ("dim=16", "heads=5")}, ModelError, "cannot be built"),
    ("transformer_tiny", {"set": ("vocabulary=9",)}, SettingsError, "'vocabulary', and it follows from the texts"),
    ("gpt_tiny", {"set": ("length=8",)}, SettingsError, "give the setting 'length'"),
    ("transformer_tiny", {"strategy": "fsdp"}, SettingsError, "fsdp"),
    ("transformer_tiny", {"length": 4}, SettingsError, "fewer than 8"),
    ("transformer_tiny", {"out": str(ROOT)}, SettingsError, "no run's"),
    ("transformer_tiny", {"val": "toy"}, SettingsError, "very text"),
    ("transformer_tiny", {"data": "page"}, DataError, "give toy, or a file whose name ends in .tsv"),
    ("transformer_tiny", {"length": 8}, DataError, "sentence [0-9]+: a sentence of"),
    ("transformer_tiny", {"batch": 40}, SettingsError, "40"),
    ("gpt_tiny", {"data": "pages"}, DataError, "'page'"),
    ("gpt_tiny", {"data": "nowhere.txt"}, DataError, "nowhere.txt"),
    ("gpt_tiny", {"batch": 4096}, SettingsError, "4096")])
def test_what_cannot_be_trained_is_said_before_anything_is_written(
        tmp_path: Path, name: str, changes: dict[str, Any], kind: type[VitrailError], said: str) -> None:
    with pytest.raises(kind, match=said):
        run_recipe(small(tmp_path / "run", name).updated(**changes))
    assert not (tmp_path / "run").exists()


def test_the_users_own_pairs(tmp_path: Path) -> None:
    file, held = tmp_path / "my.tsv", tmp_path / "held.tsv"
    file.write_text("".join(f"number {n}\tnumero {n}\n" for n in range(30)) + "oops\n" + "long " * 20 + "\tlong\n")
    held.write_text("number 3\tnumero 3\nnumber 400\tnumero 400\n")
    settings = small(tmp_path / "run", data=str(file), val=str(held), length=16)
    with pytest.raises(DataError, match="my.tsv, line 31: .*--on-error skip"):
        run_recipe(settings)
    run = run_recipe(settings.updated(on_error="skip"))
    papers = json.loads((run / "run.json").read_text())["task"]
    assert [s["key"] for s in papers["data"]["train"]["skipped"]] == ["line 31", "line 32"]
    assert papers["samples"] == {"train": 30, "val": 2} and papers["record"]["val"] == str(held)


def test_the_users_own_text_by_words(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("It rains, and it rains again. " * 60)
    run = run_recipe(small(tmp_path / "run", "gpt_tiny", data=str(file), units="words", stride=4))
    assert load_model(run).config.spec.vocabulary.units == (",", ".", "It", "again", "and", "it", "rains")
    file.write_text("It rains, and it rains no more. " * 60)
    with pytest.raises(SettingsError, match="other data"):
        run_recipe(small(tmp_path / "run", "gpt_tiny", data=str(file), units="words", stride=4))


def test_two_processes_log_the_losses_of_one(tmp_path: Path) -> None:
    more: dict[str, Any] = dict(ema=0.9, set=("dim=16", "hidden=32", "heads=2"))
    alone = run_recipe(small(tmp_path / "one", **more))
    file = tmp_path / "settings.toml"
    file.write_text(small(tmp_path / "two", strategy="ddp", **more).to_toml())
    made = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "vitrail", "train", "--settings", str(file)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert made.returncode == 0 and made.stdout.count("held out: perplexity") == 1, made.stderr
    ours, theirs = lines(alone), lines(tmp_path / "two")
    assert len(ours) == len(theirs) == 10
    for one, two in zip(ours, theirs, strict=True):
        names = {n for n in one if n != "accuracy" and n != "kind"}
        assert {n: two[n] for n in names} == pytest.approx({n: one[n] for n in names}, rel=1e-4)


def learned(folder: Path, **settings: Any) -> Path:
    return run_recipe(LanguageSettings.of({"out": str(folder / "run"), "threads": 1, **settings}))


def test_the_toy_language_is_learned(tmp_path: Path) -> None:
    found = learned(tmp_path, model="transformer_tiny", epochs=4)
    scores = json.loads((found / "evaluation.json").read_text())["scores"]
    assert scores["exact"]["value"] > 0.95


def test_a_text_is_learned_better_than_by_a_table_of_pairs(tmp_path: Path) -> None:
    found = learned(tmp_path, model="gpt_tiny", data="page", epochs=10)
    judged = json.loads((found / "evaluation.json").read_text())
    assert judged["scores"]["perplexity"]["value"] < 0.9 * judged["baselines"]["bigram"]["perplexity"]


def test_gaps_are_filled_far_better_than_by_the_commonest_letter(tmp_path: Path) -> None:
    found = learned(tmp_path, model="bert_tiny", data="page", epochs=9)
    judged = json.loads((found / "evaluation.json").read_text())
    assert judged["scores"]["accuracy"]["value"] > 2 * judged["baselines"]["commonest unit"]["accuracy"]


WORDS = Vocabulary("words", ("a", "b", "c"))


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("gpt_tiny", vocabulary=WORDS, length=200, dim=16, heads=2)
    assert model.config.spec.length == model.network.length == 200                     # it has places for all of them
    assert create_model("gpt_tiny", vocabulary=WORDS).config.spec.length == 64
    loaded = load_model(save_model(model, tmp_path / "saved"))
    assert loaded.config == model.config and not loaded.training
    tokens = torch.tensor([[7, 8, 9, 7]])
    assert torch.equal(loaded(tokens), model(tokens))
    with pytest.raises(VitrailError, match="exists already"):
        save_model(model, tmp_path / "saved")


@pytest.mark.parametrize(("change", "said"), [
    ({"format": "x"}, "of the format 'x'"), ({"spec": {"length": -1}}, "length"),
    ({"spec": {"vocabulary": {}}}, "vocabulary"), ({"spec": {"kind": "painting"}}, "painting"),
    ({"sha256": "0"}, "damaged or was replaced"),
    ({"arguments": 3}, "describe")])
def test_a_damaged_model_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = save_model(create_model("gpt_tiny", vocabulary=WORDS, dim=16, heads=2), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    change = {**change, "spec": {**config["spec"], **change.get("spec", {})}}
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)


def test_the_models_of_every_task_load_alike(tmp_path: Path) -> None:
    save_model(create_model("gpt_tiny", vocabulary=WORDS, dim=16, heads=2), tmp_path / "text")
    save_model(create_model("vit_ti16", classes=2, depth=1, dim=32, heads=2), tmp_path / "image")
    assert load_model(tmp_path / "text").config.task == "language"
    assert load_model(tmp_path / "image").config.task == "classification"
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        load_model(tmp_path)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    settings = small(tmp_path / "run")
    with Run.open(settings) as run:
        run.begin({}, {}, step=0, evaluated=0)
    with pytest.raises(CheckpointError, match="not finished"):
        load_model(tmp_path / "run")
