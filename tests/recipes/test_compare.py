"""Several mechanisms under one budget: the same for all but the mixer; stopped and gone on with; told in full."""
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.errors import ModelError, SettingsError
from vitrail.recipes import compare, compare_pages
from vitrail.recipes.compare_settings import MIXERS, CompareSettings, settings_for
from vitrail.figures.style import png

SETTINGS = settings_for("classification")
TINY = {"set": ("patch=8", "dim=16", "depth=1", "heads=2"), "epochs": 1, "batch": 256, "jobs": 1, "seeds": 2,
        "mixers": ("self_attention", "cross_covariance")}
WORDS = ["--set", "patch=8", "dim=16", "depth=1", "heads=2", "--epochs", 1, "--batch", 256]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareSettings, list[compare.Compared], list[str]]:
    settings, said = SETTINGS.of({"out": str(tmp_path_factory.mktemp("compare") / "out"), **TINY}), list[str]()
    return settings, compare.run(settings, log=said.append), said


def test_every_mechanism_is_trained_once_a_seed_and_measured(found: tuple) -> None:
    settings, compared, said = found
    assert [c.mixer for c in compared] == list(settings.mixers) and len(said) == 4
    for c in compared:
        assert len(c.runs) == 2 and c.score.low <= c.score.value <= c.score.high
        assert c.score.value == pytest.approx(sum(c.runs) / 2)
        assert min(c.params, c.multiply_adds, c.ms, c.step_bytes) > 0
        for seed in (0, 1):
            assert (Path(settings.out) / c.mixer / f"seed-{seed}" / "model" / "model.safetensors").is_file()
    first, second = compared
    assert first.against is None and second.against is not None and first.ratio == (1, 1, 1)
    assert second.against.value == pytest.approx(second.score.value - first.score.value)


def test_only_the_mixer_differs_between_the_runs(found: tuple) -> None:
    settings, _, _ = found
    one, two = (settings.of_run(m, 1) for m in settings.mixers)
    assert {line.partition(":")[0] for line in one.changed(two)} == {"mixer"} and one.training.seed == 1


def test_what_is_finished_is_not_done_again(found: tuple) -> None:
    settings, compared, _ = found
    model = Path(settings.out) / "self_attention" / "seed-0" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    again = compare.run(settings)
    assert model.stat().st_mtime_ns == before and [c.runs for c in again] == [c.runs for c in compared]


def test_trainings_in_processes_of_their_own_learn_the_same(found: tuple, tmp_path: Path) -> None:
    settings, compared, _ = found
    changed = {**settings.resolved(), "out": str(tmp_path / "two"), "jobs": 2, "seeds": 1}
    assert [c.runs[0] for c in compare.run(SETTINGS.of(changed))] == [c.runs[0] for c in compared]


def test_the_page_and_the_plot_hold_every_mechanism(found: tuple) -> None:
    settings, compared, _ = found
    page = compare_pages.page(compared, settings)
    assert all(f"| {c.mixer} |" in page for c in compared) and "Student's interval" in page
    assert png(compare_pages.plot(compared, settings))[1:4] == b"PNG"


@pytest.mark.parametrize(("change", "error", "why"), [
    ({"mixers": ("self_attention",)}, SettingsError, "two mechanisms at least"),
    ({"mixers": ("self_attention", "self_attention")}, SettingsError, "each once"),
    ({"mixers": ("self_attention", "criss_cros")}, ModelError, "criss_cross"),
    ({"mixer": "criss_cross"}, SettingsError, "--mixers")])
def test_bad_settings_are_refused_before_anything_runs(change: dict, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        SETTINGS.of({"out": "nowhere", **change})


def test_a_model_that_takes_no_mixer_is_refused_before_anything_trains(tmp_path: Path) -> None:
    settings = SETTINGS.of({"out": str(tmp_path / "x"), "model": "swin_t", "set": (), "size": 64})
    with pytest.raises(ModelError, match="no stack of equal blocks"):
        compare.run(settings)
    assert not (tmp_path / "x").exists()


def test_the_default_is_eight_mixers_or_more() -> None:
    assert len(MIXERS) >= 8 and SETTINGS.of({"out": "x"}).mixers == MIXERS


def test_the_command_tells_a_table_and_writes_the_files(ask: Ask, tmp_path: Path) -> None:      # noqa: F811
    out = tmp_path / "out"
    told = ask("compare", "--out", out, "--mixers", "self_attention", "non_local_dot", "--seeds", 1, "--jobs", 1,
               *WORDS)
    assert told.code == 0 and "non_local_dot" in told.out and "one seed, with its interval" in told.out
    assert json.loads((out / "compare.json").read_text())["mixers"][1]["mixer"] == "non_local_dot"
    assert (out / "compare.md").is_file() and (out / "compare.png").is_file()
    assert "--mixers" in ask("compare", "--help").out
    said = ask("compare", "--out", out, "--mixerz", "a").err
    assert "or 'mixers'" in said and "vitrail compare --h" in said


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX's")
def test_no_training_outlives_the_process_that_asked_for_it(tmp_path: Path) -> None:
    """Killed outright, it cannot tell its trainings; they notice, save themselves and go."""
    words = ["compare", "--out", tmp_path / "out", "--mixers", "self_attention", "non_local_dot", "--seeds", 1,
             "--epochs", 100_000, *WORDS[:5]]
    with subprocess.Popen([sys.executable, "-m", "vitrail", *map(str, words)], start_new_session=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking:
        logs = [tmp_path / "out" / mixer / "seed-0" / "metrics.jsonl" for mixer in ("self_attention", "non_local_dot")]
        wait_for(lambda: all(log.is_file() and log.stat().st_size for log in logs))
        asking.kill()
        asking.wait()

    def gone() -> bool:
        try:
            os.killpg(asking.pid, 0)
        except ProcessLookupError:
            return True
        return False
    wait_for(gone)
    assert any((log.parent / "checkpoints").iterdir() for log in logs)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about in two minutes")
