"""`vitrail claims`: lists without running, runs what it is told to, keeps it, and writes the page."""
from pathlib import Path

import pytest

from tests.cli.conftest import Ask
from vitrail.evidence.claims.registry import CLAIMS


def test_the_list_names_every_claim(ask: Ask) -> None:
    found = ask("claims", "list", "--json").json
    assert [c["id"] for c in found] == list(CLAIMS) and all(c["refuted_by"] for c in found)
    assert all(id in ask("claims", "list").out for id in CLAIMS)


def test_a_claim_is_run_and_told(ask: Ask) -> None:
    answer = ask("claims", "run", "criss_cross_reach", "--smoke")
    assert answer.code == 0 and "criss_cross_reach: smoke run, no verdict." in answer.out
    found = ask("claims", "run", "matcher", "criss_cross_reach", "matcher", "--smoke", "--json").json
    assert [f["id"] for f in found] == ["matcher", "criss_cross_reach"] and found[0]["numbers"]["random"]["tables"] > 0
    assert found[0]["file"] is None and found[0]["smoke"] is True


def test_a_result_is_kept_and_the_page_written(ask: Ask, tmp_path: Path) -> None:
    words = "claims", "run", "criss_cross_reach", "--out", tmp_path
    assert "criss_cross_reach: held." in ask(*words).out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["criss_cross_reach.json", "criss_cross_reach.png"]
    again = ask(*words)
    assert again.code == 1 and "criss_cross_reach.json" in again.err
    assert ask(*words, "--overwrite").code == 0
    assert ask("claims", "report", "--out", tmp_path).code == 0
    assert "1 held, 0 did not" in (tmp_path / "README.md").read_text("utf-8")


@pytest.mark.parametrize("word, ids", [("exact", [c.id for c in CLAIMS.values() if c.kind == "exact"]),
                                       ("all", list(CLAIMS))])
def test_a_word_stands_for_many(ask: Ask, monkeypatch: pytest.MonkeyPatch, word: str, ids: list[str]) -> None:
    from vitrail.evidence.claims import run
    from vitrail.evidence.claims.claim import Claim, Outcome

    def imagined(claim: Claim, *, smoke: bool = False) -> Outcome:
        return Outcome(held=True, finding="As claimed.", numbers={})
    monkeypatch.setattr(run, "run", imagined)
    assert [f["id"] for f in ask("claims", "run", word, "matcher", "--json").json] == ids


@pytest.mark.parametrize("words, says", [
    (("run", "criss_cros_reach"), "criss_cross_reach"), (("rnu",), "Did you mean 'run'"), (("run",), "needs ids"),
    (("list", "matcher"), "takes no ids"), (("report", "--smoke"), "takes no ids and no --smoke")])
def test_what_cannot_be_done_is_said(ask: Ask, words: tuple[str, ...], says: str) -> None:
    answer = ask("claims", *words)
    assert answer.code == 2 and says in answer.err


def test_a_page_over_nothing_is_refused(ask: Ask, tmp_path: Path) -> None:
    answer = ask("claims", "report", "--out", tmp_path)
    assert answer.code == 1 and "no claim's result" in answer.err
