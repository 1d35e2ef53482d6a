"""The survey: what is measured, what is left out and why, how it goes on, how it is told. No test asserts a time."""
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.catalogue import find, variant_of
from vitrail.core.errors import DataError, ModelError, SettingsError
from vitrail.evidence.survey import run as survey
from vitrail.evidence.survey import measure as survey_measure
from vitrail.evidence.survey import pages as survey_pages
from vitrail.evidence.survey import plots as survey_plots
from vitrail.evidence.survey.run import Line
from vitrail.evidence.survey.settings import SurveySettings
from vitrail.figures.style import png

TWO = ("ghostnet_050", "resnet18")
QUICK: dict[str, Any] = {"models": TWO, "batches": (1, 2), "rounds": 2}
MACHINE = {"device": "cpu", "name": "a machine", "threads": 1}


def measured(images: float = 10.0) -> dict[str, Any]:
    """What a child process answers."""
    of = {"peak_bytes": 1 << 20, "rounds": 2, "ratio": [1.5, 1.4, 1.6], "yardstick_gflops": 50.0,
          "eager": {"seconds": 0.1, "quartiles": [0.1, 0.1], "images_a_second": images},
          "optimised": {"seconds": 0.1, "quartiles": [0.1, 0.1], "images_a_second": 1.5 * images}}
    return {"size": [224, 224], "params": 5, "optimised": "3 norms and gains folded", "multiply_adds": 2_000_000_000,
            "batches": {"1": of, "2": of}, "left_out": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[SurveySettings, list[Line], list[tuple[int, int, str]]]:
    settings = SurveySettings(out=str(tmp_path_factory.mktemp("survey") / "out"), **QUICK)
    said: list[tuple[int, int, str]] = []
    return settings, survey.run(settings, tell=lambda *words: said.append(words)), said


def test_every_model_is_measured_in_a_process_of_its_own(whole: tuple) -> None:
    settings, lines, said = whole
    assert [x.entry.name for x in lines] == list(TWO) and [s[:2] for s in said] == [(1, 2), (2, 2)]
    for line in lines:
        assert line.found is not None and not line.left_out
        assert line.found["params"] == line.entry.params
        assert line.found["multiply_adds"] / 1e9 == pytest.approx(line.entry.gflops, abs=6e-4)
        assert list(line.found["batches"]) == ["1", "2"] and "folded" in line.found["optimised"]
        one, two = line.found["batches"].values()
        assert one["peak_bytes"] < two["peak_bytes"] < 2.5 * one["peak_bytes"]
        for of in (one, two):
            assert of["rounds"] == 2 and of["ratio"][1] <= of["ratio"][0] <= of["ratio"][2]
            assert of["eager"]["images_a_second"] > 0 and of["yardstick_gflops"] > 0
    assert sorted(p.name for p in Path(settings.out, "models").iterdir()) == [f"{name}.json" for name in TWO]


def test_what_is_measured_is_not_measured_again(whole: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, lines, _ = whole
    monkeypatch.setattr(survey, "_measured", lambda *args: pytest.fail("it was measured already"))
    assert survey.run(settings) == lines == survey.look(settings)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, asked = SurveySettings(out=str(tmp_path / "out"), **QUICK), list[str]()

    def stopped(entry: Any, settings: SurveySettings) -> dict[str, Any]:
        asked.append(entry.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measured()
    monkeypatch.setattr(survey, "_measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        survey.run(settings)
    first, second = survey.look(settings)
    assert first.found and second.left_out == "not measured yet"
    assert all(x.found for x in survey.run(settings)) and asked == [TWO[0], TWO[1], TWO[1]]


def test_what_was_measured_elsewhere_is_refused_or_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SurveySettings(out=str(tmp_path / "out"), **QUICK)
    monkeypatch.setattr(survey, "_measured", lambda *args: measured(10))
    survey.run(settings)
    here = survey.machine
    monkeypatch.setattr(survey, "machine", lambda device: here(device) | {"name": "another processor"})
    monkeypatch.setattr(survey, "_measured", lambda *args: measured(20))
    with pytest.raises(SettingsError, match="another processor.*--remeasure"):
        survey.run(settings)
    with pytest.raises(SettingsError, match="rounds: 2 there, 3 here"):
        survey.run(SurveySettings(**{**settings.resolved(), "rounds": 3}))
    again = survey.run(SurveySettings(**{**settings.resolved(), "remeasure": True}))
    assert all(x.found and x.found["batches"]["1"]["eager"]["images_a_second"] == 20 for x in again)


def test_a_damaged_measurement_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SurveySettings(out=str(tmp_path / "out"), **QUICK)
    monkeypatch.setattr(survey, "_measured", lambda *args: measured())
    survey.run(settings)
    (tmp_path / "out" / "models" / "resnet18.json").write_text('{"format": "vitr')
    with pytest.raises(DataError, match="resnet18.json.*remove it"):
        survey.run(settings)


def test_a_model_that_changed_since_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SurveySettings(out=str(tmp_path / "out"), **{**QUICK, "models": ("resnet18",)})
    monkeypatch.setattr(survey, "_measured", lambda *args: measured(10))
    survey.run(settings)
    path = tmp_path / "out" / "models" / "resnet18.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"params": 7}))
    monkeypatch.setattr(survey, "_measured", lambda *args: measured(20))
    (line,) = survey.run(settings)
    assert line.found and line.found["batches"]["1"]["eager"]["images_a_second"] == 20


def test_what_does_not_fit_is_listed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_measured", lambda *args: measured())
    settings = SurveySettings(out=str(tmp_path / "out"), models=("resnet18", "vit_b16", "vit_giant14"),
                              limit_gflops=500, limit_gb=0.5)
    told = dict(survey_pages.left_out(survey.run(settings)))
    assert set(told) == {"vit_b16", "vit_giant14"}
    assert told["vit_b16"] == "its weights and their copy are 0.6 GiB, of 0.5 allowed"
    assert "allowed" in told["vit_giant14"]
    few = SurveySettings(out=str(tmp_path / "few"), models=("resnet18",), limit_gflops=1)
    assert survey.run(few)[0].left_out == "1.814 GFLOPs, of 1 allowed"


def test_a_budget_and_a_limit_of_memory_leave_batches_out() -> None:
    spent = survey_measure.measure("ghostnet_050", batches=[1, 2], rounds=9, budget=1e-6, limit_gb=9)
    assert not spent["batches"] and all("3 rounds and one" in why for why in spent["left_out"].values())
    tight = survey_measure.measure("ghostnet_050", batches=[1, 64], rounds=1, budget=60, limit_gb=0.1)
    assert list(tight["batches"]) == [1] and "of 0.1 allowed" in tight["left_out"][64]


@pytest.mark.skipif(shutil.which("false") is None, reason="no program that fails at once")
def test_a_process_that_dies_ends_one_line_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SurveySettings(out=str(tmp_path / "out"), **{**QUICK, "models": ("resnet18",)})
    monkeypatch.setattr(survey.sys, "executable", shutil.which("false"))
    assert "ended with code 1" in survey.run(settings)[0].left_out
    monkeypatch.setattr(survey, "_measured", lambda *args: measured())
    assert survey.run(settings)[0].found
    assert "SIGKILL, as systems do that run out of memory" in survey._reason(-9, "")
    assert survey._reason(1, "Traceback\nValueError: no") == "it failed: ValueError: no"


def test_no_measurement_outlives_the_process_that_asked() -> None:
    job = {"name": "resnet18", "batches": [1], "rounds": 1_000_000, "budget": 1e6, "limit_gb": 0, "threads": 1}
    child = subprocess.Popen([sys.executable, "-m", survey_measure.__name__], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(json.dumps(job).encode() + b"\n")
    child.stdin.close()
    assert child.wait(timeout=120) == 1
    assert child.stdout is not None and child.stdout.read() == b""


def test_the_accuracy_is_the_best_plain_one_at_the_size_that_is_measured() -> None:
    def of(name: str) -> Any:
        return survey.reported(variant_of(name))
    assert (of("swin_t").top1, of("swin_t").release) == (81.474, "tv_in1k") and "torchvision" in of("swin_t").where
    assert of("swin_l").other_data and of("swin_l").release == "ms_in22k_ft_in1k"       # there is no other
    assert of("xcit_nano_12_p16").top1 == 72.2                                          # not 75.4, at 384 pixels
    assert of("ghostnet_050") is None
    coatnet = of("coatnet_0")
    assert (coatnet.top1, coatnet.release, coatnet.where, coatnet.other_data) == (81.6, "", "table 4", False)


def lines() -> list[Line]:
    names = ("resnet18", "resnet50", "swin_t", "swin_l", "ghostnet_050")
    found = [Line(entry=find(n), reported=survey.reported(variant_of(n)), found=measured(10 + i))
             for i, n in enumerate(names)]
    return [*found, Line(entry=find("vit_h14"), reported=None, left_out="too large")]


def test_table_csv_and_json_tell_the_same() -> None:
    settings = SurveySettings(out="x", models=("resnet*",), batches=(1, 2))
    text = survey_pages.page(lines(), settings, MACHINE)
    assert "`vitrail survey --out x --models 'resnet*' --batches 1 2`" in text and "name a machine" in text
    assert "| resnet50 | 0.0 M | 2 | 80.86 | tv_v2 | 1.0 | 11 | 16.5 | 1.50 (1.40 to 1.60) |" in text
    assert "| 86.30* | ms_in22k_ft_in1k |" in text and "- vit_h14: too large" in text
    assert "- resnet: torchvision.models.ResNet18_Weights" in text
    body = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in body] == ["model", "swin_l", "swin_t", "resnet50", "resnet18", "ghostnet_050"]
    rows = list(csv.DictReader(io.StringIO(survey_pages.table(lines()))))
    assert [r["model"] for r in rows] == ["resnet18", "resnet50", "swin_t", "swin_l", "ghostnet_050"]
    assert rows[1]["reported_top1"] == "80.858" and rows[1]["optimised_images_a_second_2"] == "16.5"
    assert rows[4]["reported_top1"] == "" and rows[3]["reported_other_data"] == "True"
    told = json.loads(json.dumps(survey_pages.told(lines(), settings, MACHINE)))
    assert told["left_out"] == [{"what": "vit_h14", "why": "too large"}] and told["machine"] == MACHINE
    assert told["models"][1]["reported"]["top1"] == 80.858 and told["models"][4]["reported"] is None


@pytest.mark.parametrize("kind", survey_plots.ACCURACY)
def test_a_figure_names_its_models(kind: str) -> None:
    figure = survey_plots.plot(lines(), kind, 2)
    assert {t.get_text() for t in figure.axes[0].texts} == {"resnet18", "resnet50", "swin_t", "swin_l"}
    assert png(figure)[1:4] == b"PNG"
    assert png(survey_plots.plot([], kind, 2))[1:4] == b"PNG", "with nothing to show it says so"


def test_what_none_beats_in_both() -> None:
    points = [(1.0, 70.0), (2.0, 80.0), (3.0, 75.0), (2.0, 79.0), (4.0, 81.0)]
    assert survey_plots.unbeaten(points, less=True) == {0, 1, 4}
    assert survey_plots.unbeaten(points, less=False) == {4}


@pytest.mark.parametrize(("changes", "error", "says"), [
    ({"models": ("swin_x*",)}, ModelError, "no model matches 'swin_x"), ({"batches": (0,)}, SettingsError, "batches"),
    ({"budget_seconds": 0}, SettingsError, "budget_seconds"), ({"models": ("criss_cross",)}, ModelError, "no model")])
def test_wrong_settings_are_refused(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        SurveySettings(**{"out": "x", **changes})


def test_the_command_writes_everything(ask: Ask, whole: tuple) -> None:       # noqa: F811
    settings, _, _ = whole
    words = ["survey", "--out", settings.out, "--models", *TWO, "--batches", 1, 2, "--rounds", 2]
    found = ask(*words, "--json")
    assert found.code == 0 and [m["name"] for m in found.json["models"]] == list(TWO)
    assert found.json["machine"]["torch"] and "1/2 ghostnet_050" in found.err
    assert sorted(p.name for p in Path(settings.out).iterdir()) == ["models", "operations.png", "survey.csv",
                                                                    "survey.json", "survey.md", "throughput.png"]
    said = ask(*words, "--limit-gflops", "1")
    assert "resnet18  1.814 GFLOPs, of 1 allowed" in said.out and "ghostnet_050" in said.out
    assert "goes on where it was" in ask("survey", "--help").out


def test_ctrl_c_keeps_what_was_measured(ask: Ask, whole: tuple, monkeypatch: pytest.MonkeyPatch) -> None:   # noqa: F811
    settings, _, _ = whole
    Path(settings.out, "survey.md").unlink(missing_ok=True)

    def stop(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt
    monkeypatch.setattr(survey, "run", stop)
    said = ask("survey", "--out", settings.out, "--models", *TWO, "vit_ti16", "--batches", 1, 2, "--rounds", 2)
    assert said.code == 130 and "2 of 3 models are measured and kept" in said.err
    assert "- vit_ti16: not measured yet" in Path(settings.out, "survey.md").read_text("utf-8")
