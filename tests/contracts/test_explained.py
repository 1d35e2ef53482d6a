"""Every system is explained and exported, or says why not; who refuses what stands in `refusals.txt`.

A line there is `<module> <method> <reason>`: a method that the form of this paper cannot take.
"""
import os
from pathlib import Path

import numpy as np
import pytest

import vitrail
from tests.contracts.small import STRUCTURES, build
from vitrail.core.catalogue import find
from vitrail.core.errors import ExplainError
from vitrail.deploy.export import export
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
