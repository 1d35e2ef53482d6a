"""Other engines beside ours: the same answers, in processes that end. No test asserts a time."""
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.measure.test_workers import gone, runs
from vitrail.cli.main import main
from vitrail.core import extras
from vitrail.core.errors import ExportError, ModelError, VitrailError
from vitrail.core.tensors import read_tensors, write_tensors
from vitrail.deploy.cpu import int8
from vitrail.evidence.engines import compare as peers
from vitrail.evidence.engines import plot as peers_plot
from vitrail.evidence.engines import transformers as peers_transformers
from vitrail.evidence.engines import worker as peers_worker
from vitrail.measure import workers

ROOT = Path(__file__).parents[2]
WORDS = ["bench", "--models", "vit_ti16", "--batch", "1", "--rounds", "2", "--threads", "1"]
FAMILIES = ("vit_ti16", "deit_ti16", "deit_ti16_distilled", "swin_t", "pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were started."""
    found: list[int] = []
    begin = subprocess.Popen

    def told(*args: Any, **named: Any) -> Any:
        process = begin(*args, **named)
        found.append(process.pid)
        return process
    monkeypatch.setattr(workers.subprocess, "Popen", told)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small run beside timm and ONNX Runtime, by the command itself."""
    folder, threads = tmp_path_factory.mktemp("peers"), torch.get_num_threads()
    assert main([*WORDS, "--against", "timm", "onnxruntime", "--optimize", "fp32", "--out", str(folder / "b.json"),
                 "--plot", str(folder / "b.png")]) == 0
    torch.set_num_threads(threads)
    return folder, json.loads((folder / "b.json").read_text("utf-8"))


def test_the_numbers_say_what_they_were_measured_on(measured: tuple[Path, dict[str, Any]]) -> None:
    found = measured[1]
    assert found["command"] == ("vitrail " + " ".join(WORDS[:7]) + " --against timm onnxruntime --optimize fp32 "
                                "--apart --device cpu --threads 1")
    machine = found["machine"]
    assert machine["threads"] == 1 and machine["name"]
    assert all(machine[p] for p in ("torch", "vitrail", "timm", "onnxruntime", "onnx", "onnxscript"))


def test_every_side_tells_its_time_its_share_and_its_memory(measured: tuple[Path, dict[str, Any]]) -> None:
    (row,) = measured[1]["rows"]
    assert (row["model"], row["batch"], row["size"], row["rounds"]) == ("vit_ti16", 1, 224, 2) and not row["left_out"]
    assert list(row["sides"]) == ["vitrail fp32", "optimised fp32", "timm fp32", "onnxruntime fp32"]
    for name, side in row["sides"].items():
        assert side["threads"] == 1 and len(side["processors"]) <= 1 and side["form"]
        assert side["difference"] <= 1e-4 and side["images_a_second"] == pytest.approx(1000 / side["ms"])
        middle, low, high = side["share"]
        assert 0 < low <= middle <= high
        if side["peak_bytes"] is not None:
            assert side["peak_bytes"] > 0.9 * 4 * 5_700_000, "its weights at least"
        ours = name.startswith(("vitrail", "optimised"))
        assert list(side["over"]) == ([] if ours else ["vitrail fp32", "optimised fp32"])
        assert all(0 < low <= middle <= high for middle, low, high in side["over"].values())
    assert list(row["product_gflops"]) == ["fp32"] and row["gflops"] == pytest.approx(1.25, abs=0.01)


def test_the_plot_is_a_picture_of_every_ratio(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, found = measured
    with Image.open(folder / "b.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 600 and image.height > 150
    (axes,) = peers_plot.plot(found["rows"]).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["vit_ti16, batch 1: timm fp32",
                                                              "vit_ti16, batch 1: onnxruntime fp32"]
    assert len(peers_plot.ratios(found["rows"])) == 4


def test_rows_of_one_process_are_drawn_too() -> None:
    fast = {"ratio": 2.0, "ratio_quartiles": [1.5, 2.5]}
    plain = {"model": "vit_s16", "batch": 8, "optimised": {"bf16": fast}}
    beside = {**plain, "against": "timm", "ratio": 1.0, "ratio_quartiles": [0.9, 1.1]}
    alone, timm = "vit_s16, batch 8: as it is", "vit_s16, batch 8: timm fp32"
    assert [(r.what, r.ours, r.middle) for r in peers_plot.ratios([plain, beside])] == [
        (alone, "ours optimised bf16", 2.0), (timm, "ours as it is", 1.0), (timm, "ours optimised bf16", 2.0)]


def test_lower_precisions_are_asked_of_those_that_have_them() -> None:
    found = [str(s) for s in peers.sides(["timm", "onnxruntime", "openvino"], ["bf16"])]
    assert found == ["vitrail fp32", "optimised bf16", "timm fp32", "timm bf16", "onnxruntime fp32", "openvino fp32",
                     "openvino bf16"]
    *found, last = peers.sides(["timm", "openvino"], ["int8"])
    assert list(map(str, found)) == ["vitrail fp32", "optimised int8", "timm fp32", "openvino fp32"]
    assert str(last) == "openvino int8" and "quantised" in last.form and "quantised" not in found[-1].form


def test_ours_in_int8_stands_beside_the_product_in_int8(tmp_path: Path) -> None:
    if not int8.available():
        pytest.skip("no products in int8 here")
    row = peers.beside(peers.Net("vit_ti16", 0, tmp_path), 1, peers.sides([], ["int8"]), rounds=1)
    assert 1e-3 < row["sides"]["optimised int8"]["difference"] <= peers.BOUNDS["int8"]
    assert list(row["product_gflops"]) == ["fp32", "int8"] and row["sides"]["optimised int8"]["share"][0] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_networks_of_transformers_answer_as_ours(name: str, tmp_path: Path) -> None:
    net, answers = peers.Net(name, 0, tmp_path), []
    for engine in ("vitrail", "transformers"):
        call, _ = peers_worker.ENGINES[engine](net.job(peers.Side(engine), 1))()
        answers.append(peers_worker._array(call()))
    ours, theirs = answers
    assert np.abs(ours - theirs).max() <= 1e-4 * ours.std() and ours.std() > 1e-3


@pytest.mark.parametrize(("name", "engine"), [("resnet18", "transformers"), ("tnt_s", "transformers"),
                                              ("pvt_tiny", "timm")])
def test_where_there_is_no_counterpart_that_is_said(name: str, engine: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{name} has no counterpart in {engine}"):
        peers.Net(name, 0, tmp_path).job(peers.Side(engine), 1)
    assert set(peers_transformers._FAMILIES) == {"backbones.vit", "backbones.deit", "backbones.swin", "backbones.pvt",
                                                 "backbones.pvt_v2"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_answers_as_ours(precision: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if find_spec("openvino") is None or precision == "int8" and find_spec("nncf") is None:
        pytest.skip("openvino or nncf is not installed: pip install 'vitrail[bench]'")
    if precision == "int8" and not int8.available():
        pytest.skip("no products in int8 here")
    chosen = [peers.Side("vitrail"), peers.Side("openvino", precision)]
    row = peers.beside(peers.Net("vit_ti16", 224, tmp_path), 2, chosen, rounds=1)
    assert capfd.readouterr() == ("", "")
    side = row["sides"].get(f"openvino {precision}")
    if side is None:
        assert "OpenVINO runs in" in row["left_out"][f"openvino {precision}"]       # no such processor
    else:
        assert side["difference"] <= peers.BOUNDS[precision] and side["threads"] == torch.get_num_threads()
    if side is not None and precision == "int8":
        assert side["difference"] > 1e-3 and side["nncf"] and side["rest_in"] in ("bf16", "f32")
        assert (side["peak_bytes"] or 0) < 250e6, "without what quantised it"


@pytest.mark.parametrize(("case", "reason"), [
    ("missing", "this needs the package 'nncf', which is not installed: pip install 'vitrail[bench]'"),
    ("failing", "NNCF cannot quantise this model: "),
    ("coarse", "the answers of openvino int8 differ from ours by 2.1 of their deviation (2 is allowed)")])
def test_int8_is_left_out_with_its_reason(case: str, reason: str, tmp_path: Path, started: list[int],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    job, chosen = peers.Net.job, [peers.Side("vitrail"), peers.Side("openvino", "int8")]
    monkeypatch.setattr(extras, "find_spec", lambda module: None if case == "missing" else object())
    monkeypatch.setattr(peers.Net, "_onnx", lambda self, batch: str(tmp_path / "none.onnx"))
    if case == "coarse":                                                # by ours in the peer's place
        monkeypatch.setattr(peers.Net, "job", lambda net, side, batch: {
            **job(net, chosen[0], batch), "answer": str(tmp_path / f"{side}.safetensors")})
        monkeypatch.setattr(peers, "_difference", lambda net, side: 0.0 if side.ours else 2.1)
    row = peers.beside(peers.Net("resnet18", 32, tmp_path), 1, chosen, rounds=1)
    assert list(row["sides"]) == ["vitrail fp32"] and list(row["product_gflops"]) == ["fp32"]
    assert row["left_out"]["openvino int8"].startswith(reason) and len(row["left_out"]) == 1
    assert len(started) == 2 + (case != "missing") and not any(map(runs, started))


def test_what_an_engine_cannot_take_is_left_out_with_its_reason(tmp_path: Path, started: list[int],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **named: Any) -> None:
        raise ExportError("the exporter failed")
    monkeypatch.setattr(peers.vitrail, "export", failing)
    row = peers.beside(peers.Net("resnet18", 32, tmp_path), 1, peers.sides(["onnxruntime", "transformers"], []),
                       rounds=1)
    assert list(row["sides"]) == ["vitrail fp32"]
    assert row["left_out"] == {"onnxruntime fp32": "the exporter failed",
                               "transformers fp32": "resnet18 has no counterpart in transformers"}
    assert row["gflops"] == pytest.approx(1.814 * (32 / 224)**2, rel=0.05), "counted anew at another size"
    assert len(started) == 2 and not any(map(runs, started))


def test_an_engine_with_other_weights_is_not_timed(tmp_path: Path, started: list[int]) -> None:
    class Changed(peers.Net):
        def job(self, side: peers.Side, batch: int) -> dict[str, Any]:
            job = super().job(side, batch)
            if side.engine == "timm":
                state = read_tensors(job["state"])
                state["head.bias"][7] += 1e-3
                write_tensors(job["state"], state, overwrite=True)
            return job
    with pytest.raises(ModelError, match="answers of timm fp32 differ from ours by 0.00.*0.0001 is allowed"):
        peers.beside(Changed("vit_ti16", 0, tmp_path), 1, peers.sides(["timm"], []), rounds=1)
    assert len(started) == 2 and not any(map(runs, started))


def test_a_process_that_dies_ends_the_comparison_and_the_others(tmp_path: Path, started: list[int],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    turn = peers._turn

    def killed(worker: workers.Worker, of: Any) -> float:
        if worker.name.startswith("timm"):
            os.kill(worker.pid, signal.SIGKILL)
        return turn(worker, of)
    monkeypatch.setattr(peers, "_turn", killed)
    with pytest.raises(VitrailError, match="timm fp32 with vit_ti16: its process was ended by SIGKILL"):
        peers.beside(peers.Net("vit_ti16", 0, tmp_path), 1, peers.sides(["timm"], []), rounds=1)
    assert len(started) == 3 and not any(map(runs, started))


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes as Linux lists them")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_stopped_it_leaves_no_process_behind(sent: int, code: int, tmp_path: Path) -> None:
    words = ["bench", "--models", "vit_ti16", "--batch", "1", "--size", "32", "--rounds", "100000", "--apart"]
    # a test that a shell runs in the background would hand its deafness to Ctrl-C down
    with subprocess.Popen([sys.executable, "-m", "vitrail", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
                          preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            end = time.monotonic() + 300
            while len(there := children(process.pid)) < 2 and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert len(there) == 2, "ours and the product"
            process.send_signal(sent)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code and b"Traceback" not in said
    assert all(gone(pid) for pid in there)
    if sent == signal.SIGINT:
        assert b"interrupted" in said and not list(tmp_path.iterdir())
