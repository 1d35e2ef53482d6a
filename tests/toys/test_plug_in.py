"""Three tasks that vitrail does not know, each a file: through every verb, without a line changed elsewhere.

Boxes in images of different sizes, a GAN of two phases, and a momentum encoder on a folder that nobody labelled.
"""
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitrail
from tests.cli.conftest import Ask, ask       # noqa: F401
from tests.toys import boxes
from vitrail.cli.main import main

ROOT = Path(__file__).parents[2]
TOYS = ("boxes", "gan", "momentum")


def words(toy: str, pictures: Path) -> list[str]:
    """What `vitrail train` is told, for a run of a few seconds."""
    return {"boxes": ["--model", "toy_detector", "--data", "squares:60", "--epochs", "3"],
            "gan": ["--model", "toy_gan", "--data", "circle:96", "--epochs", "3"],
            "momentum": ["--task", "toy_momentum", "--data", str(pictures), "--epochs", "3"]}[toy]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "pictures"
    folder.mkdir()
    for number in range(24):
        image = boxes.Squares(24).image(number)
        Image.fromarray(image.movedim(0, -1).numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("toy_runs")
    for toy in TOYS:
        plugin = ["--plugin", str(ROOT / "tests" / "toys" / f"{toy}.py")]
        assert main([*plugin, "train", *words(toy, pictures), "--save-every", "1", "--out", str(folder / toy)]) == 0
    return {toy: folder / toy for toy in TOYS}


@pytest.mark.parametrize("toy", TOYS)
def test_a_run_that_was_killed_goes_on_to_the_bit(toy: str, runs: dict[str, Path], pictures: Path,
                                                  tmp_path: Path) -> None:
    out = tmp_path / toy
    command = [sys.executable, "-m", "vitrail", "--plugin", str(ROOT / "tests" / "toys" / f"{toy}.py"), "train",
               *words(toy, pictures), "--save-every", "1", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        for _ in range(1200):
            if list(out.glob("checkpoints/step-*")) or started.poll() is not None:
                break
            time.sleep(0.05)
        started.kill()
    assert not (out / "model").exists(), "it was killed before its end"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for file in ("model/model.safetensors", "model/config.json", "evaluation.json"):
        assert (out / file).read_bytes() == (runs[toy] / file).read_bytes(), file
    assert scores(out) == scores(runs[toy])


def scores(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in lines]


@pytest.mark.parametrize(("toy", "label"), [("boxes", "overlap"), ("gan", "distance"), ("momentum", "spread")])
def test_it_is_evaluated_and_reported(toy: str, label: str, runs: dict[str, Path], ask: Ask) -> None:      # noqa: F811
    told = ask("evaluate", runs[toy], "--held-out-of-run")
    assert told.code == 0 and label in told.out
    page = (runs[toy] / "report.html").read_text("utf-8")
    assert f"held-out {label}" in page and ("The first image" in page) == (toy == "boxes")
    evaluation = vitrail.evaluate(runs[toy])
    assert evaluation.samples == json.loads((runs[toy] / "evaluation.json").read_text())["samples"]


def test_what_a_task_can_is_asked_and_what_it_cannot_is_refused(runs: dict[str, Path], pictures: Path, ask: Ask,     # noqa: F811
                                                                tmp_path: Path) -> None:
    found = ask("predict", runs["boxes"], pictures / "0.png", "--top", 2, "--json").json["predictions"]
    assert len(found[0]["boxes"]) == 2 and found[0]["file"].endswith("0.png")
    drawn = next(vitrail.predict(runs["boxes"], pictures / "0.png")).draw(Image.open(pictures / "0.png"))
    assert drawn.size == Image.open(pictures / "0.png").size
    explained, = ask("explain", runs["boxes"], pictures / "0.png", "--out", tmp_path / "maps", "--json").json
    assert explained["label"].startswith("place ") and Path(explained["overlay"]).is_file()
    x, y = map(float, ask("generate", runs["gan"], "3").out.split())
    assert max(abs(x), abs(y)) < 10
    for toy, verb, rest in (("boxes", "generate", ["x"]), ("gan", "predict", [pictures]),
                            ("gan", "explain", ["3", "--out", "x"]),
                            ("momentum", "predict", [pictures]), ("momentum", "generate", ["x"]),
                            ("momentum", "explain", [pictures, "--out", tmp_path / "none"])):
        refused = ask(verb, runs[toy], *rest)
        assert refused.code == 2 and f"models for toy_{toy} cannot be asked to {verb}" in refused.err, (toy, verb)


@pytest.mark.parametrize("toy", TOYS)
def test_it_is_exported_and_optimised(toy: str, runs: dict[str, Path], pictures: Path, ask: Ask,           # noqa: F811
                                      tmp_path: Path) -> None:
    data = "seeds" if toy == "gan" else pictures
    for suffix in (".onnx", ".pt2"):
        told = ask("export", runs[toy], tmp_path / f"model{suffix}", "--images", data, "--json")
        assert told.code == 0 and told.json["difference"] <= 1e-4 * told.json["scale"], told.err
    tried = ask("optimize", runs[toy], "--images", data, "--precision", "fp32", "--rounds", 1, "--json")
    assert tried.code == 0 and tried.json["trials"][0]["difference"] <= 1e-4, tried.err


def test_a_loss_is_divided_by_the_boxes_of_the_whole_batch(tmp_path: Path) -> None:
    """However the batch is cut into micro-batches, whose images hold different numbers of boxes."""
    norms = []
    for accumulate in (1, 2, 4):
        settings = boxes.TASK.settings.of({"model": "toy_detector", "data": "squares:40", "out": str(tmp_path / "run"),
                                           "accumulate": accumulate})
        objective = boxes.BoxObjective(settings, boxes.open_splits(settings))
        batch = next(objective.batches(0, 1).epoch(0))
        torch.manual_seed(0)
        model = objective.build()
        from vitrail.training.objective import part
        for number in range(accumulate):
            (objective.loss(model, part(batch, number, accumulate), 0)["loss"] / accumulate).backward()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
    assert float(norms[0]) == pytest.approx(float(norms[1]), rel=1e-4) == pytest.approx(float(norms[2]), rel=1e-4)
