"""vitrail optimize, and the --optimize of those that use a model."""
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Ask
from vitrail.deploy.cpu import fuse, int8


def test_optimize_tries_every_precision_on_real_images(ask: Ask, run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    found = ask("optimize", run, "--images", photos, "--batch", "3", "--rounds", "2", "--out", out, "--json")
    assert found.code == 0, found.err
    told = json.loads(out.read_text("utf-8"))
    assert told == found.json and told["plain_seconds"] > 0 and told["samples"] > 8
    assert [t["precision"] for t in told["trials"]] == ["fp32", "bf16", "int8"]
    for trial in told["trials"]:
        assert not trial["refused"] and trial["seconds"] > 0 and trial["agreement"] > 0.5
        assert trial["quartiles"][0] <= trial["ratio"] <= trial["quartiles"][1]
    exact, low = told["trials"][:2]
    assert exact["difference"] <= 1e-5 and exact["agreement"] == 1
    if fuse.bfloat16_available():
        assert low["difference"] > 1e-5
    else:
        assert "bfloat16" in low["report"]["left"] and low["difference"] <= 1e-5
    assert exact["report"]["rewritten"]["linear"] > 2
    again = ask("optimize", run, "--images", photos, "--out", out)
    assert again.code == 1 and "exists already" in again.err


def test_optimize_prints_a_table(ask: Ask, run: Path, photos: Path) -> None:
    found = ask("optimize", run, "--images", photos, "--precision", "fp32", "--rounds", "1")
    assert found.code == 0 and "times as fast" in found.out and "bf16" not in found.out.split("\n\n")[0]


@pytest.mark.parametrize(("words", "code", "said"), [
    (["{run}s", "--images", "{photos}"], 2, "'first'"), (["{run}"], 2, "--images"),
    (["{run}", "--images", "{photos}s"], 1, "no file or folder"),
    (["{run}", "--images", "{photos}", "--precision", "int4"], 2, "int4"),
    (["{run}", "--images", "{photos}", "--batch", "0"], 2, "batch")])
def test_optimize_asked_wrongly(ask: Ask, run: Path, photos: Path, words: list[str], code: int, said: str) -> None:
    found = ask("optimize", *(w.format(run=run, photos=photos) for w in words))
    assert found.code == code and said in found.err


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_evaluate_and_predict_take_an_optimised_model(ask: Ask, run: Path, photos: Path, precision: str) -> None:
    """Batches that are no whole number of the images, so that the last one is short."""
    words = ("--held-out-of-run", "--batch", "5", "--json")
    told = [ask("evaluate", run, *words, *more) for more in ((), ("--optimize", precision))]
    assert all(t.code == 0 for t in told), [t.err for t in told]
    plain, fast = (t.json for t in told)
    assert plain["samples"] == fast["samples"] and plain["samples"] % 5
    apart = abs(plain["scores"]["nll"]["value"] - fast["scores"]["nll"]["value"])
    assert 1e-6 < apart < 0.1 if precision == "int8" and int8.available() else apart < 1e-4
    there, here = (ask("predict", run, photos, "--batch", "5", "--json", *more).json["predictions"]
                   for more in ((), ("--optimize", precision)))
    assert [p["file"] for p in there] == [p["file"] for p in here]
    assert all(abs(a["probability"] - b["probability"]) < 0.05 for a, b in zip(there, here, strict=True)
               if a["label"] == b["label"])
