"""`vitrail bench`: forward passes on this machine, beside other engines once their answers agree."""
import os
import tempfile
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vitrail.cli import bench_tables
from vitrail.cli.command import Command
from vitrail.cli.opening import check_free, place
from vitrail.cli.options import OnDevice, Overwrites, Precision
from vitrail.cli.output import log, print_json
from vitrail.core import catalogue
from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file
from vitrail.core.settings import setting

if TYPE_CHECKING:
    import torch

MODELS = "vit_s16,swin_t"
Engine = Literal["timm", "transformers", "onnxruntime", "openvino"]
ENGINES = get_args(Engine)
OF_ONE_SIZE = ("timm", "transformers")
VERSIONS = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
            "openvino": ("openvino", "nncf", "onnx", "onnxscript")}


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, OnDevice):
    """Which models, beside what."""

    models: str = setting(MODELS, metavar="A,B", help="names that `vitrail list` shows")
    batch: tuple[int, ...] = setting((1, 8), low=1, high=4096, help="batch sizes")
    size: int = setting(0, low=0, high=4096, help="pixels a side; 0: the model's own")
    rounds: int = setting(15, low=1, high=100_000, help="how often each is timed")
    against: tuple[Engine, ...] = setting((), metavar="ENGINE", help=f"of {', '.join(ENGINES)}: time these too")
    apart: bool = setting(False, help="each engine in a process of its own, by turns")
    optimize: tuple[Precision, ...] = setting((), help="time the model as vitrail.optimize rewrites it, too, in each "
                                                       "of these precisions")
    plot: str = setting("", metavar="FILE.png", help="draw the ratios there")
    out: str = setting("", metavar="FILE.json", help="write the numbers there, with the machine, the versions and the "
                                                     "command")


MORE = """--against: with the same weights, after checking that the answers are the same. timm and transformers run
their own network, onnxruntime and openvino our ONNX export for that batch; all in float32, in bf16 where --optimize
has it and they do, and openvino in int8, quantised by NNCF on the images that are timed. timm alone shares a process
with ours; others as with --apart.

--apart: bound to as many processors as it has threads; tells also the share of this machine's best rate of matrix
products that it reaches (the model's multiply-adds by its time, over those of a packed product in the same round and
precision), and its peak of memory beyond what the process held before the model."""


def run(a: Settings, *, json: bool) -> int:
    names = [n.strip() for n in a.models.split(",") if n.strip()]
    if not names:
        raise SettingsError("--models names no model: give names that `vitrail list` shows, with commas between")
    for name in names:
        catalogue.find(name)
    for path in (a.out, a.plot):
        check_free(path, overwrite=a.overwrite)
    a = a.updated(against=tuple(dict.fromkeys(a.against)))
    apart = a.apart or any(engine != "timm" for engine in a.against)
    if a.size and (sized := [e for e in a.against if e in OF_ONE_SIZE]):
        raise SettingsError(f"{sized[0]}'s networks are made for one size: leave out --size, or --against {sized[0]}")
    if a.plot and not (a.against or a.optimize):
        raise SettingsError("--plot draws ratios, and of ours alone there are none: add --against or --optimize")
    if apart and a.device == "auto":
        a = a.updated(device="cpu")
    device = place(a)
    if a.optimize and device.type != "cpu":
        raise SettingsError(f"--optimize rewrites models for the processor, and this is {device}: add --device cpu")
    if apart and device.type != "cpu":
        raise SettingsError(f"engines in processes of their own are compared on the processor, and this is {device}: "
                            "leave out --device")

    from vitrail.evidence.engines import compare as peers
    from vitrail.measure.machine import machine
    peers.check_engines(list(a.against))                  # missing? then before any model is made
    packages = dict.fromkeys(p for e in a.against for p in VERSIONS.get(e, (e,)))
    found: dict[str, Any] = {"command": _command(a, names, device, apart),
                             "machine": {**machine(device, *packages), "load": _load()}, "rows": []}
    if busy := _busy(found["machine"]["load"]):
        log(busy)
    measured = _apart if apart else _in_one_process
    for name in names:
        found["rows"] += measured(name, a, device)
        if not json:
            log(f"measured {name}")
    _write(a, found)
    if json:
        print_json(found)
    elif apart:
        bench_tables.of_processes(found)
    else:
        bench_tables.of_one_process(found)
    return 0


def _in_one_process(name: str, a: Settings, device: "torch.device") -> list[dict[str, Any]]:
    from vitrail.evidence.engines.forward import measure
    return measure(name, list(a.batch), against=a.against[0] if a.against else "", optimize=list(a.optimize),
                   rounds=a.rounds, size=a.size, device=device)


def _apart(name: str, a: Settings, device: "torch.device") -> list[dict[str, Any]]:
    from vitrail.evidence.engines import compare as peers
    with tempfile.TemporaryDirectory(prefix="vitrail-bench-") as folder:
        net = peers.Net(name, a.size, Path(folder))
        sides = peers.sides(list(a.against), list(a.optimize))
        return [peers.beside(net, batch, sides, rounds=a.rounds) for batch in a.batch]


def _write(a: Settings, found: dict[str, Any]) -> None:
    if a.out:
        write_file(a.out, dumps(found, indent=1) + "\n", overwrite=a.overwrite)
    if a.plot:
        from vitrail.evidence.engines.plot import plot
        from vitrail.figures.style import png
        write_file(a.plot, png(plot(found["rows"])), overwrite=a.overwrite)


def _command(a: Settings, names: list[str], device: "torch.device", apart: bool) -> str:
    """What measures the same again, with every setting that this machine chose."""
    import torch
    words = ["vitrail bench", "--models", ",".join(names), "--batch", *map(str, a.batch), "--rounds", str(a.rounds)]
    words += ["--size", str(a.size)] if a.size else []
    words += ["--against", *a.against] if a.against else []
    words += ["--optimize", *a.optimize] if a.optimize else []
    return " ".join([*words, *(["--apart"] if apart else []), "--device", str(device), "--threads",
                     str(torch.get_num_threads())])


def _load() -> float | None:
    """How many processes wanted a processor in the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _busy(load: float | None) -> str:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if load is None or load < 0.5:
        return ""
    return (f"note: other processes are at work here (load {load:g} on {processors} processors), and engines differ in "
            "how much that costs them, those of torch with several threads most: leave the machine alone meanwhile")


COMMAND = Command(about="Times forward passes on this machine, as ratios. `vitrail bench attention` measures "
                        "mechanisms instead.", settings=Settings, run=run, more=MORE,
                  subcommands={"attention": "bench_attention"})
