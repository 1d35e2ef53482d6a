"""bench and doctor. No test asserts a time: only that what is timed is the same thing, and how it is told."""
import re
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.conftest import Ask
from vitrail.cli import bench, doctor
from vitrail.core import extras
from vitrail.core.catalogue import variant_of
from vitrail.core.errors import MissingExtra, ModelError
from vitrail.evidence.engines import forward
from vitrail.evidence.engines import compare as peers
from vitrail.measure import timing


@pytest.mark.parametrize(("ours", "theirs"), [("vit_s16", "vit_small_patch16_224"),
                                              ("swin_t", "swin_tiny_patch4_window7_224"),
                                              ("resnet18", "resnet18"), ("deit_ti16", "deit_tiny_patch16_224")])
def test_the_counterpart_is_read_off_the_releases(ours: str, theirs: str) -> None:
    assert forward.counterpart(ours, variant_of(ours)) == theirs


def test_bench_against_timm_tells_ratios_and_the_machine(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    words = ["bench", "--models", "vit_ti16", "--batch", "1", "--rounds", "2", "--against", "timm", "--threads", "1"]
    found = ask(*words, "--json", "--out", out).json
    row, machine = found["rows"][0], found["machine"]
    assert row["model"] == "vit_ti16" and row["against"] == "timm" and row["ratio"] > 0 and row["yardstick_gflops"] > 0
    assert row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1]
    assert machine["torch"] == torch.__version__ and machine["timm"] and machine["threads"] == 1 and machine["name"]
    assert out.is_file() and ask(*words, "--out", out).code == 1
    assert found["command"] == " ".join(["vitrail", *words[:7], "--against", "timm", "--device", "cpu", *words[9:]])
    assert "sides" not in row, "timm alone shares a process with ours"


def test_bench_alone_takes_sizes_and_batches(ask: Ask) -> None:
    said = ask("bench", "--models", "vit_ti16,resnet18", "--batch", "1", "2", "--rounds", "2", "--size", "32").out
    assert [line.split()[:3] for line in said.splitlines() if line.startswith(("vit_ti16", "resnet18"))] == [
        ["vit_ti16", "1", "32"], ["vit_ti16", "2", "32"], ["resnet18", "1", "32"], ["resnet18", "2", "32"]]


def test_answers_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differ from timm's"):
        forward.pair("vit_ti16", 224, torch.device("cpu"))


def test_ratios_within_one_process_can_be_drawn(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "ratios.png"
    words = ["bench", "--models", "resnet18", "--batch", "1", "--rounds", "1", "--size", "32", "--device", "cpu"]
    assert ask(*words, "--optimize", "fp32", "--plot", out).code == 0
    with Image.open(out) as image:
        assert image.format == "PNG" and image.width > 500
    assert ask(*words, "--optimize", "fp32", "--plot", out).code == 1, "it stands already"
    assert "add --against or --optimize" in ask(*words, "--plot", tmp_path / "none.png").err


def test_the_command_line_knows_the_engines() -> None:
    assert bench.ENGINES == tuple(peers.ENGINES)


def test_a_missing_engine_is_named_before_any_model_is_made(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    there = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "openvino" else there(module))
    monkeypatch.setattr(forward, "filled", lambda name: pytest.fail("a model was made"))
    found = ask("bench", "--models", "vit_ti16", "--against", "onnxruntime", "openvino")
    assert found.code == 1 and "'openvino'" in found.err and "pip install 'vitrail[bench]'" in found.err


def test_other_engines_are_compared_on_the_processor_only(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "place", lambda a: torch.device("cuda"))
    found = ask("bench", "--against", "onnxruntime", "--device", "cuda")
    assert found.code == 2 and "compared on the processor" in found.err


def test_each_thing_is_timed_once_a_round_in_turn() -> None:
    called: list[str] = []
    things = {name: (lambda n=name: called.append(n)) for name in "abc"}
    found = timing.interleaved(things, rounds=58, device=torch.device("cpu"), warm=2)
    assert all(len(t.seconds) == 58 for t in found.values())
    rounds = ["".join(called[i:i + 3]) for i in range(0, len(called), 3)]
    assert len(rounds) == 60 and all(sorted(r) == list("abc") for r in rounds)
    assert len(set(rounds)) == 6, "every order occurs, so that none always follows the same other one"


def test_a_ratio_is_that_of_neighbours_in_time() -> None:
    slow, fast = timing.Times((2.0, 20.0, 2.0)), timing.Times((1.0, 10.0, 2.0))
    assert slow.over(fast) == (2.0, 1.5, 2.0) and fast.over(slow)[0] == 0.5
    assert timing.Times((3.0,)).over(timing.Times((2.0,))) == (1.5, 1.5, 1.5)


def test_doctor_tells_what_is_there(ask: Ask) -> None:
    found = ask("doctor", "--json")
    report = found.json
    assert found.code == 0 and report["ok"] and report["torch"]["version"] == torch.__version__
    assert report["torch"]["devices"][0]["device"] == "cpu" and report["torchvision"]["state"] in ("whole", "guarded")
    assert {x["name"] for x in report["extras"]} == {x.name for x in extras.EXTRAS} and "torchrun" in report["torchrun"]
    assert report["kernels"].startswith(("built by", "none: ", "not used: "))
    said = ask("doctor").out
    assert torch.__version__ in said and report["kernels"][:8] in said and all(x.unlocks in said for x in extras.EXTRAS)


def test_doctor_asks_for_what_the_package_needs_and_for_nothing_else() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(doctor.NEEDED) == {re.split(r"[><=]", need)[0] for need in project["dependencies"]}


def test_doctor_tells_of_a_cache_that_cannot_be_written(ask: Ask, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "new" / "deep"))
    assert ask("doctor", "--json").json["cache"]["writable"] and not (tmp_path / "new").exists()
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "file" / "below"))
    cache = ask("doctor", "--json").json["cache"]
    assert not cache["writable"] and "VITRAIL_CACHE" in cache["error"] and "file" in cache["error"]


def test_doctor_tells_how_to_get_what_is_missing(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = extras.Extra(name="gone", packages={"no_such_module": "no-such-dist"}, unlocks="nothing")
    monkeypatch.setattr(doctor, "EXTRAS", (gone,))
    assert "missing no-such-dist: pip install 'vitrail[gone]'" in ask("doctor").out
    monkeypatch.setattr(extras, "EXTRAS", (gone,))
    with pytest.raises(MissingExtra, match=r"'no-such-dist'.*pip install 'vitrail\[gone\]'"):
        extras.need("no_such_module.inner")


def test_an_extra_that_lacks_a_part_of_its_own_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match="not_there_at_all"):
        extras.need("half_there")
    assert extras.need("json").__name__ == "json"
