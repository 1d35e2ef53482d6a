"""The ledger: what is measured, what is left out, how it is told. No test asserts a time."""
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.errors import ModelError, SettingsError
from vitrail.evidence.attention_benchmark import measure as ledger
from vitrail.evidence.attention_benchmark import pages as ledger_pages
from vitrail.figures.style import png


def test_every_size_is_measured_and_counted() -> None:
    said: list[str] = []
    rows = ledger.measure(["self_attention", "cross_covariance"], sides=(4, 8), dim=16, heads=2, rounds=3,
                          tell=said.append)
    assert [r.name for r in rows] == ["self_attention", "cross_covariance"] and len(said) == 2
    for row in rows:
        assert row.tokens == [16, 64] and not row.skipped
        assert all(len(s) == 3 and min(s) > 0 for s in row.seconds)
        assert row.time() is None, "no exponent where nothing lies beyond TAIL"
    attention = rows[0]
    assert attention.params == 4 * (16 * 16 + 16)
    assert attention.multiply_adds == [n * 4 * 16 * 16 + 2 * n * n * 16 for n in (16, 64)]


def test_memory_is_foretold_and_what_is_too_large_is_left_out() -> None:
    rows = ledger.measure(["self_attention"], sides=(4, 8, 16), dim=16, heads=2, rounds=1, limit_gb=1e-5)
    assert rows[0].tokens == [16, 64] and "N = 256" in rows[0].skipped


def test_exponents_are_those_beyond_the_tail() -> None:
    row = ledger.Row(name="x", claimed_time="N", claimed_memory="N", params=1, tokens=[64, 4096, 16384],
                     seconds=[[9.0], [1.0, 1.0], [16.0, 16.0]], peak=[10, 100, 400])
    time, memory = row.time(), row.memory()
    assert time is not None and time.exponent == pytest.approx(2)
    assert memory is not None and memory.exponent == pytest.approx(1)
    told = json.loads(json.dumps(row.to_json()))
    assert told["time_exponent"]["exponent"] == 2 and told["seconds"] == [9, 1, 16]
    text = ledger_pages.page([row], {"threads": 1}, "vitrail bench attention")
    assert "| x | 16,384 | 16000.0 | 0.0 | N | N^2.00 (2.00 to 2.00) | N | N^1.00 |" in text
    assert png(ledger_pages.plot([row]))[1:4] == b"PNG"


def test_names_beside_a_plot_keep_apart_and_in_order() -> None:
    for heights in ([0.1, 0.1, 0.1, 0.9], [0.95, 0.96, 0.97], [0.5], [i / 40 for i in range(40)]):
        found = ledger_pages.spread(heights)
        gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
        assert all(g >= min(1 / len(heights), ledger_pages.STEP) - 1e-9 for g in gaps) and found[-1] <= 1 + 1e-9
    assert ledger_pages.spread([0.2, 0.7]) == [0.2, 0.7]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ModelError, match="self_attention"):
        ledger.measure(["self_atention"])
    with pytest.raises(SettingsError, match="larger than the one before"):
        ledger.measure(["self_attention"], sides=(8, 4))


def test_the_command_writes_table_numbers_and_plot(ask: Ask, tmp_path: Path) -> None:       # noqa: F811
    words = ["bench", "attention", "--mechanisms", "self_attention", "--tokens", "64", "16", "--rounds", "1",
             "--dim", "16", "--heads", "2", "--out", tmp_path / "ledger"]
    found = ask(*words, "--json").json
    assert found["rows"][0]["tokens"] == [16, 64] and found["machine"]["torch"]
    assert sorted(p.name for p in (tmp_path / "ledger").iterdir()) == ["attention.json", "attention.md",
                                                                       "attention.png"]
    assert ask(*words).code == 1, "nothing is overwritten unasked"
    assert "not a square map: try 64 or 81" in ask("bench", "attention", "--tokens", "65").err
