"""The main job from end to end, on scikit-learn's handwritten digits: `make demo`.

A small residual network learns the digits and teaches a small distilled DeiT; the student is evaluated on the
held-out fifth, explained, exported to ONNX, and the export is compared with it on real images.
"""
import argparse
import json
import time
from pathlib import Path
from typing import Any

from vitrail.core.errors import VitrailError
from vitrail.core.task import Options, Task, task_for
from vitrail.training.settings import RunSettings

SIZE = 32       # the 8 x 8 digits are enlarged: a stride-32 network needs that much

# digits are not mirror-symmetric, and their edges matter: no flips, mild crops. The last weights are kept, not those
# of the best epoch: choosing on the held-out images would flatter the score. One thread computes and one process
# reads, which on networks as small as these is quicker than two threads that wait for each other.
SEEN: dict[str, Any] = dict(data="digits", size=SIZE, crop=1.0, crop_scale=0.7, flip=0.0, randaugment=1, magnitude=5,
                            erase=0.0, finish="last", threads=1, workers=1, log_every=22)
TEACHER: dict[str, Any] = dict(model="resnet18", set=("dim=16", "depths=[1, 1, 1, 1]"), epochs=12, batch=64, lr=3e-3,
                               **SEEN)
STUDENT: dict[str, Any] = dict(model="deit_ti16_distilled", epochs=50, batch=32, lr=1.5e-3, ema=0.99,
                               set=("patch=8", "dim=96", "depth=4", "heads=3", "drop_path=0.05"),
                               distillation="hard", evaluate_every=2, **SEEN)


def demo_task() -> Task:
    return task_for(STUDENT["model"])


def teacher(out: Path, seed: int) -> RunSettings:
    settings: RunSettings = demo_task().settings.of({**TEACHER, "out": str(out), "seed": seed})
    return settings


def student(out: Path, taught_by: Path, seed: int) -> RunSettings:
    settings: RunSettings = demo_task().settings.of(
        {**STUDENT, "out": str(out), "teacher": str(taught_by), "seed": seed})
    return settings


def run(out: Path, *, seed: int = 0) -> dict[str, float]:
    """Teaches, learns, evaluates, explains, exports; returns the held-out scores of teacher and student.

    out: a new folder for the student's run, or one that an interrupted demo left; the teacher's stands beside it.
    """
    from vitrail.deploy.export import export
    from vitrail.models import load_model
    from vitrail.recipes.train import evaluate, train
    from vitrail.report.exports import note_export

    taught_by = out.with_name(out.name + "-teacher")
    task = demo_task()
    train(task, teacher(taught_by, seed))
    settings = student(out, taught_by, seed)
    train(task, settings)
    val = task.splits(settings).val
    model = load_model(out)
    artefact = export(model, out / "model.onnx", images=[val.image(i) for i in range(32)], overwrite=True)
    note_export(out, artefact.to_json())
    evaluate(task, out, val, Options(batch=64))
    return {name: json.loads((folder / "evaluation.json").read_text("utf-8"))["scores"][task.headline]["value"]
            for name, folder in (("teacher", taught_by), ("student", out))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each; more than one prints the mean")
    chosen = parser.parse_args()
    start, scores = time.monotonic(), []
    for seed in chosen.seeds:
        out = chosen.out if len(chosen.seeds) == 1 else chosen.out.with_name(f"{chosen.out.name}-{seed}")
        scores.append(run(out, seed=seed))
        print(f"seed {seed}: held-out top-1 of the teacher {scores[-1]['teacher']:.4f}, "
              f"of the student {scores[-1]['student']:.4f}; {out / 'report.html'}")
    if len(scores) > 1:
        print(f"mean of {len(scores)} seeds: teacher {sum(s['teacher'] for s in scores) / len(scores):.4f}, "
              f"student {sum(s['student'] for s in scores) / len(scores):.4f}")
    print(f"{time.monotonic() - start:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except VitrailError as e:
        raise SystemExit(f"error: {e}") from None
