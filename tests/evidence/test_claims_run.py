"""Every claim runs: the exact ones hold in full, the cost ones are run at small sizes, where no verdict counts."""
import json
import math
from typing import Any

import pytest
import torch

from vitrail.evidence.exact import order as exact_order
from vitrail.evidence.exact import places as exact_places
from vitrail.evidence.exact import reach as exact_reach
from vitrail.evidence.exact import sums as exact_sums
from vitrail.evidence.claims import run
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.claims.registry import CLAIMS
from vitrail.evidence.exact.exactness import EXACT, apart, draw, least, worst
from vitrail.nn import SelfAttention
from vitrail.positions.sinusoidal import sinusoids
from vitrail.figures.style import png

EXACT_ONES = [c for c in CLAIMS.values() if c.kind == "exact"]
COST_ONES = [c for c in CLAIMS.values() if c.kind == "cost"]


def check(outcome: Outcome) -> None:
    json.dumps(dict(outcome.numbers), allow_nan=False)
    assert outcome.finding.endswith((".", ")")) and "nan" not in outcome.finding and len(outcome.finding) > 30
    if outcome.figure is not None:
        assert png(outcome.figure)[1:4] == b"PNG"


@pytest.mark.parametrize("claim", EXACT_ONES, ids=lambda c: c.id)
@pytest.mark.parametrize("smoke", [True, False], ids=["smoke", "full"])
def test_exact_claims_hold(claim: Any, smoke: bool) -> None:
    outcome = run.run(claim, smoke=smoke)
    check(outcome)
    assert outcome.held, outcome.finding


@pytest.mark.parametrize("claim", COST_ONES, ids=lambda c: c.id)
def test_cost_claims_run(claim: Any) -> None:
    check(run.run(claim, smoke=True))


@pytest.mark.parametrize("claim", [c for c in CLAIMS.values() if c.kind == "learning"], ids=lambda c: c.id)
def test_claims_about_learning_run(claim: Any) -> None:
    check(run.run(claim, smoke=True))


def test_counts_need_no_quiet_machine() -> None:
    bert = run.run(CLAIMS["bert_size"])
    assert bert.held and bert.numbers["whole"] == 110_106_428
    nets = run.run(CLAIMS["cheap_nets"])
    assert not nets.held and nets.numbers["gmacs"]["GhostNet 1.0x"] == pytest.approx(0.141, abs=5e-4)
    assert nets.numbers["gmacs"]["ViT-B/16"] == pytest.approx(17.564, abs=5e-4)


# --- claims that cannot fail prove nothing: each is broken once

def test_numbers_that_are_none_are_seen() -> None:
    assert math.isnan(worst([0.0, math.nan, 1.0])) and math.isnan(least([math.nan, 0.0]))
    assert math.isnan(apart(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])))
    assert not math.nan <= EXACT


def test_a_layer_that_sees_places_is_no_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Placed(SelfAttention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + 1e-3 * torch.arange(x.shape[1])[:, None])
    monkeypatch.setattr(exact_order, "SelfAttention", Placed)
    assert not exact_order.permutation(True).held


def test_sines_with_another_rotation_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exact_places.shift
    monkeypatch.setattr(exact_places, "shift", lambda d, dim: right(d + 1e-6, dim))
    assert not exact_places.sine_shift(True).held


def test_a_predecessor_without_its_ailment_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exact_places.CODES, "integers", sinusoids)
    outcome = exact_places.sine_shift(True)
    assert not outcome.held and outcome.numbers["ill"]["integers"] is False


@torch.no_grad()
def test_weak_locality_is_no_convolution() -> None:
    assert exact_places._unlike_convolution(3, 1.0, 100.0, 0) > 0.1
    assert exact_places._unlike_convolution(3, 80.0, 1.0, 0) > 0.1, "nor is a gate that is half open"


def test_one_round_of_criss_cross_is_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_reach, "RecurrentCrissCross", exact_reach.CrissCross)
    assert not exact_reach.criss_cross_reach(True).held


def test_a_decoder_without_a_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import vitrail.foundations.gpt as gpt
    monkeypatch.setattr(gpt, "causal", lambda n, like: torch.zeros(n, n, dtype=like.dtype))
    outcome = exact_reach.masked(True)
    assert not outcome.held and outcome.numbers["models"]["GPT"]["largest change up to t"] > 0.01


def test_a_sum_with_one_token_too_many_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_sums, "attend_linear_masked", lambda q, k, v: (exact_sums.attend_linear(q, k, v), None))
    assert not exact_sums.linear_forms(True).held


def test_a_greedy_matcher_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        free, columns = cost.clone(), []
        for row in free[:min(cost.shape)]:
            columns.append(int(row.argmin()))
            free[:, columns[-1]] = torch.inf
        return torch.arange(len(columns)), torch.tensor(columns)
    monkeypatch.setattr(exact_sums, "assign", greedy)
    assert not exact_sums.matcher(True).held
    monkeypatch.setattr(exact_sums, "assign", lambda cost: (torch.arange(min(cost.shape)),) * 2)
    assert not exact_sums.matcher(True).held


def test_brute_force_finds_the_least_of_all() -> None:
    cost = draw(1, 2, 3)
    every = [cost[0, 0, i] + cost[0, 1, j] for i in range(3) for j in range(3) if i != j]
    assert exact_sums.cheapest(cost)[0] == min(every)
