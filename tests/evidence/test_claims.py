"""The claims and the machinery that runs them: all are there, to be listed without torch; results are not lost."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.core.errors import DataError, SettingsError, VitrailError
from vitrail.evidence.exact import reach as exact_reach
from vitrail.evidence.claims import run
from vitrail.evidence.claims.claim import Claim, Outcome
from vitrail.evidence.claims.registry import CLAIMS, find
from vitrail.figures.style import make_axes

ROOT = Path(__file__).parents[2]
EXACT = {"permutation", "sine_shift", "conv_is_attention", "translation", "criss_cross_reach", "linear_forms", "masked",
         "relevance_sum", "point_invariance", "matcher"}
COST = {"cost_exponents", "ccnet_memory", "deformable_cost", "lambda_cost", "cheap_nets", "bert_size"}
LEARNING = {"needs_data", "convit_sample_efficiency", "distillation", "early_convolutions", "pre_ln",
            "deit_depth_reattention", "san_parameters", "aaconv", "conv_then_attention", "adversarial"}


def test_every_claim_of_the_field_is_there() -> None:
    assert {c.id for c in CLAIMS.values() if c.kind == "exact"} == EXACT
    assert {c.id for c in CLAIMS.values() if c.kind == "cost"} == COST
    assert {c.id for c in CLAIMS.values() if c.kind == "learning"} == LEARNING
    assert all(id == claim.id for id, claim in CLAIMS.items())


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.id)
def test_all_is_said_before_it_runs(claim: Claim) -> None:
    for text in (claim.says, claim.source, claim.miniature, claim.statistic, claim.refuted_by):
        assert len(text) > 10 and "  " not in text and text == text.strip()
    assert claim.says.endswith(".")
    assert (ROOT / "vitrail" / "evidence" / f"{claim.module.replace(chr(46), chr(47))}.py").is_file()


def test_every_module_runs_just_the_claims_that_name_it() -> None:
    import importlib
    for module in {c.module for c in CLAIMS.values()}:
        runs = importlib.import_module(f"vitrail.evidence.{module}").RUNS
        assert set(runs) == {c.id for c in CLAIMS.values() if c.module == module}


def test_the_list_needs_no_torch() -> None:
    code = "import sys, vitrail.evidence.claims.registry, vitrail.cli.claims; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="criss_cross_reach"):
        find("cris_cross_reach")


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The claim `masked` runs something imagined instead; the list holds what it was called with."""
    called: list[bool] = []

    def masked(smoke: bool) -> Outcome:
        called.append(smoke)
        figure, (axes,) = make_axes(2, 2)
        axes.plot([0, 1])
        return Outcome(held=False, finding="It did not, since it is imagined.", numbers={"n": 3}, figure=figure)
    monkeypatch.setitem(exact_reach.RUNS, "masked", masked)
    return called


def test_a_result_is_kept_with_all_that_was_said_and_is_not_overwritten(imagined: list[bool], tmp_path: Path) -> None:
    outcome, path = run.publish(CLAIMS["masked"], tmp_path / "evidence")
    told = json.loads(path.read_text("utf-8"))
    assert told["held"] is False and told["numbers"] == {"n": 3} and told["plot"] is True and told["kind"] == "exact"
    assert told["refuted_by"] == CLAIMS["masked"].refuted_by and told["machine"]["torch"]
    assert path.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    before = path.read_bytes()
    with pytest.raises(VitrailError, match="masked.json"):
        run.publish(CLAIMS["masked"], tmp_path / "evidence")
    assert path.read_bytes() == before and imagined == [False], "it refuses before it runs for minutes"
    run.publish(CLAIMS["masked"], tmp_path / "evidence", overwrite=True)
    assert imagined == [False, False]


def test_a_smoke_run_is_handed_on(imagined: list[bool]) -> None:
    run.run(CLAIMS["masked"], smoke=True)
    assert imagined == [True]


def test_a_folder_that_is_a_file_is_refused_at_once(imagined: list[bool], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        run.publish(CLAIMS["masked"], tmp_path / "file")
    assert not imagined


def test_the_page_says_what_failed_and_what_is_missing(imagined: list[bool], tmp_path: Path) -> None:
    run.publish(CLAIMS["masked"], tmp_path)
    (tmp_path / "other.json").write_text('{"format": "something else"}')
    page = run.report(tmp_path).read_text("utf-8")
    assert "0 held, 1 did not" in page and "| did not hold |" in page and "![masked](masked.png)" in page
    assert "Not run yet: permutation, " in page and CLAIMS["masked"].refuted_by in page


def test_a_page_needs_results_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no claim's result"):
        run.report(tmp_path)
    (tmp_path / "masked.json").write_text("{")
    with pytest.raises(DataError, match="run its claim again"):
        run.report(tmp_path)
