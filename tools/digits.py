"""Train each backbone at a small size on the bundled digits, through the recipe of `vitrail train`.

`docs/digits/<module>.json` says what to train: {"model": ..., "set": [...], "size": ..., and any other setting of
`vitrail train`}. `python tools/digits.py <module> ...` (all, where none is named) trains it in runs/digits/<module>,
and writes the held-out score beside it; docs/digits.md has all of them.
"""
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from vitrail.core.task import task_for
from vitrail.recipes.compare import train
from vitrail.tasks.classification.settings import ClassificationSettings

FOLDER = Path(__file__).parents[1] / "docs" / "digits"
# the budget of all, where a paper's file says nothing else; the last epoch's weights are judged, so that the held-out
# images choose nothing
BUDGET: dict[str, Any] = dict(data="digits", epochs=20, batch=32, lr=2e-3, crop=1.0, crop_scale=0.7, flip=0.0,
                              randaugment=0, erase=0.0, threads=1, evaluate_every=1_000_000, finish="last")


def run(module: str) -> None:
    path = FOLDER / f"{module}.json"
    told = {k: v for k, v in json.loads(path.read_text("utf-8")).items() if k != "found"}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
    start, out = time.perf_counter(), Path("runs", "digits", module)
    shutil.rmtree(out, ignore_errors=True)              # else a run made before a change of the model would go on
    chosen = ClassificationSettings.of({**BUDGET, **settings, "out": str(out)})
    score = train(chosen)
    of = len(task_for(chosen.model.name).splits(chosen).val)
    right = round(score.value * of)
    found = {"right": right, "of": of, "seconds": round(time.perf_counter() - start)}
    path.write_text(json.dumps({**told, "found": found}, indent=1) + "\n", encoding="utf-8")
    print(f"{module}: {100 * right / of:.2f} % of {of} held-out digits in {found['seconds']} s", flush=True)


def page() -> None:
    rows = []
    for path in sorted(FOLDER.glob("*.json")):
        told = json.loads(path.read_text("utf-8"))
        if found := told.get("found"):
            own = ", ".join(f"{k} {v}" for k, v in told.items() if k not in ("model", "set", "found"))
            rows.append(f"| {path.stem} | `{told['model']}` | {' '.join(told.get('set', [])) or 'as published'} | "
                        f"{own} | {100 * found['right'] / found['of']:.2f} % | {found['seconds']} s |")
    budget = ", ".join(f"{k} {v}" for k, v in BUDGET.items())
    text = ["# Every backbone, trained on digits", "",
            "`python tools/digits.py`: one small network a paper, from scratch on the 1,438 training digits that "
            "scikit-learn bundles, judged on the 359 others after the last epoch. The budget, where a row says nothing "
            f"else: {budget}. A stride of 32 leaves nothing of 8 pixels, so pyramids see larger renderings. Seconds "
            "are those of one core of a shared machine.", "",
            "| paper | model | changes | settings | held-out top-1 | one core |", "|---|---|---|---|---|---|", *rows]
    (FOLDER.parent / "digits.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(p.stem for p in FOLDER.glob("*.json")):
        if name != "page":
            run(name)
    page()
