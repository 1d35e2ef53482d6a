"""Every system is explained and exported, or says why not; who refuses what stands in `refusals.txt`.

A line there is `<module> <method> <reason>`: a method that the form of this paper cannot take.
"""
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import vitrail
import vitrail.explanation as explanation_package
from tests.contracts.small import STRUCTURES, build
from tests.foundations.small import EVERY
from tests.foundations.small import build as small_foundation
from tests.foundations.small import inputs as foundation_inputs
from vitrail.core.catalogue import entries, find
from vitrail.core.errors import ExplainError
from vitrail.deploy.export import export
from vitrail.explanation.sequences import TokenTarget, explain_tokens
from vitrail.nn import Visible

LINES = [line.split(maxsplit=2) for line in (Path(__file__).parent / "refusals.txt").read_text("utf-8").splitlines()]
REFUSED = {(module, method) for module, method, _ in LINES}
SEEING = [n for n in STRUCTURES if any(isinstance(m, Visible) for m in build(n).modules())]


def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 255, (70, 90, 3), dtype=np.uint8) for i in range(2)]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", ["attention", "rollout", "relevance", "gradcam"])
def test_explains_or_is_known_to_refuse(name: str, method: str) -> None:
    model = build(name)
    unable = (find(name).module, method) in REFUSED or (name not in SEEING and method != "gradcam")
    if unable:
        with pytest.raises(ExplainError):
            vitrail.explain(model, pictures()[0], method=method)
        return
    shown = False
    # Grad-CAM keeps what speaks for a class, which may be nothing: then another class has something
    for target in (None, *range(7 if method == "gradcam" else 0)):
        found = vitrail.explain(model, pictures()[0], method=method, target=target)
        assert np.isfinite(found.map).all()
        if shown := bool(np.ptp(found.map) > 0):
            break
    assert shown


# each neighbour of a window is a part of its own in these: their way to ONNX takes minutes, and VITRAIL_ALL=1 goes it
UNROLLED = () if os.environ.get("VITRAIL_ALL") else ("backbones.san", "backbones.lrnet",
                                                             "backbones.sasa_resnet")


@pytest.mark.parametrize("name", STRUCTURES)
def test_exports_what_answers_alike(name: str, tmp_path: Path) -> None:
    """As ONNX, which is made of a torch.export program; or as that program."""
    suffix = ".pt2" if find(name).module in UNROLLED else ".onnx"
    made = export(build(name), tmp_path / f"m{suffix}", images=pictures(), size=(64, 96))
    assert made.agreement == 1 and made.difference <= 1e-4 * made.scale


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("method", ["attention", "rollout", "relevance"])
def test_every_foundation_is_explained_token_by_token(kind: str, method: str) -> None:
    """No network is refused because it has a decoder, or because it reads text."""
    assert {entry.module for entry in entries().values() if entry.kind == "foundation"} == {
        entry.build.__module__.removeprefix("vitrail.") for entry in EVERY.values()}
    network, texts = small_foundation(kind), tuple(text[1:] for text in foundation_inputs(kind))
    produced = texts[0 if kind in ("gpt", "bert") else 1][0]
    read_off = "text" if kind in ("gpt", "bert") else "target"
    targets = [TokenTarget(value=i, tokens=read_off, index=i) for i in range(len(produced))]

    def score(output: Any, place: int) -> Tensor:
        return (output if isinstance(output, Tensor) else output.tokens)[:, place, produced[place]]
    explanation = explain_tokens(network, texts, score, targets, method=method)
    for name, matrix in explanation.relevance.items():
        assert matrix.shape == (len(produced), len(explanation.tokens[name])) and np.isfinite(matrix).all()
    assert any(np.ptp(matrix) > 0 for matrix in explanation.relevance.values())


@pytest.mark.parametrize("path", sorted(Path(explanation_package.__file__).parent.glob("*.py")), ids=lambda p: p.stem)
def test_explanations_know_no_task(path: Path) -> None:
    words = set(re.findall(r"[a-z]+", path.read_text("utf-8").lower()))
    tasks = {p.name for p in (Path(vitrail.__file__).parent / "tasks").iterdir() if p.is_dir() and p.name[0] != "_"}
    kinds = {task for entry in entries().values() for task in entry.tasks}
    assert not words & ({"logits", "labels", "boxes", "classification", "classifier"} | tasks | kinds)
