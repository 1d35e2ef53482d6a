"""Ours beside other engines with the very same weights: each in a process of its own, by turns, answers compared first.

Engines have thread pools of their own, which would disturb each other within one process. So each runs in a worker that
waits; every round asks all of them, one after the other and in a new order, beside a product of matrices.
"""
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

import vitrail
from vitrail.core import catalogue
from vitrail.core.errors import ExportError, MissingExtra, ModelError, VitrailError
from vitrail.core.extras import check
from vitrail.core.tensors import write_tensors
from vitrail.evidence.engines import forward
from vitrail.evidence.engines import transformers as peers_transformers
from vitrail.measure.operations import multiply_adds
from vitrail.measure.product import MULTIPLY_ADDS
from vitrail.measure.timing import Times, in_turns
from vitrail.measure.workers import Refused, Worker

WORKER = "vitrail.evidence.engines.worker"
BOUNDS = {"fp32": 1e-4, "bf16": 0.15, "int8": 2.0}      # how far an answer may be from ours in fp32, of the deviation
#                                                         of our logits. In int8 engines lose what they lose, which is
#                                                         told; another network's answers would be five off
PAUSE = 0.01            # seconds between two turns, in which threads that still spin go to sleep
WARM = 1                # rounds; building has called each already


@dataclass(frozen=True, kw_only=True)
class Engine:
    """needs: modules that must be installed; int8 needs nncf too. precisions: what it can be asked for. form: what it
    runs."""

    needs: tuple[str, ...]
    precisions: tuple[str, ...]
    form: str


EXPORTER = ("onnx", "onnxscript", "onnxruntime")
ENGINES = {
    "timm": Engine(needs=("timm",), precisions=("fp32", "bf16"), form="its own network, eager"),
    "transformers": Engine(needs=("transformers",), precisions=("fp32", "bf16"), form="its own network, eager"),
    "onnxruntime": Engine(needs=EXPORTER, precisions=("fp32",), form="our ONNX export of this batch"),
    "openvino": Engine(needs=("openvino", *EXPORTER), precisions=("fp32", "bf16", "int8"),
                       form="our ONNX export of this batch"),
}


@dataclass(frozen=True)
class Side:
    """An engine in a precision: "vitrail" is our model as it is, "optimised" what `vitrail.optimize` makes of it."""

    engine: str
    precision: str = "fp32"

    @property
    def ours(self) -> bool:
        return self.engine not in ENGINES

    @property
    def form(self) -> str:
        if self.ours:
            return "our network, " + ("eager" if self.engine == "vitrail" else "as vitrail.optimize rewrites it")
        return ENGINES[self.engine].form + (", quantised by NNCF on its images" if self.precision == "int8" else "")

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def sides(against: Sequence[str], optimize: Sequence[str]) -> list[Side]:
    """Ours, as it is and optimised, and every engine in fp32 and in those of the precisions that it has."""
    wanted = dict.fromkeys(("fp32", *optimize))
    return [Side("vitrail"), *(Side("optimised", p) for p in optimize),
            *(Side(e, p) for e in dict.fromkeys(against) for p in wanted if p in ENGINES[e].precisions)]


def check_engines(names: Sequence[str]) -> None:
    """Raises MissingExtra for the first engine that is not installed, naming what brings it."""
    for name in names:
        check(*ENGINES[name].needs)


class Net:
    """A model with seeded weights, and what other processes read of it: files in a folder."""

    def __init__(self, name: str, size: int, folder: Path):
        entry = catalogue.find(name, "backbone")
        self.name, self.size, self.folder = name, size or entry.image, folder
        self.model = forward.filled(name)
        self.gflops = entry.gflops if self.size == entry.image else \
            multiply_adds(partial(self.model, forward.images(1, self.size, forward.CPU))) / 1e9

    def job(self, side: Side, batch: int) -> dict[str, Any]:
        """What a worker is told. Raises ModelError, ExportError where the engine has no form of this model, and
        MissingExtra where int8 needs NNCF."""
        image = self.folder / f"image-{batch}.safetensors"
        if not image.exists():
            write_tensors(image, {"image": forward.images(batch, self.size, forward.CPU)})
        job: dict[str, Any] = {**asdict(side), "threads": torch.get_num_threads(), "model": self.name,
                               "image": str(image), "answer": str(self.folder / f"{side}.safetensors")}
        if side.engine == "timm":
            job |= {"model": forward.counterpart(self.name, catalogue.variant_of(self.name)),
                    "state": self._state("timm")}
        elif side.engine == "transformers":
            there = peers_transformers.counterpart(self.model)
            path = self.folder / "transformers.safetensors"
            write_tensors(path, there.tensors, overwrite=True)
            job |= {"model": there.network, "config": there.config, "arguments": there.arguments,
                    "epsilons": there.epsilons, "state": str(path)}
        elif side.ours:
            job |= {"state": self._state("vitrail")}
        else:
            job |= {"graph": self._int8(batch, image) if side.precision == "int8" else self._onnx(batch)}
        return job

    def _state(self, layout: str) -> str:
        path = self.folder / f"{layout}.safetensors"
        if not path.exists():
            write_tensors(path, forward.in_layout(self.model, layout))
        return str(path)

    def _onnx(self, batch: int) -> str:
        path = self.folder / f"{batch}.onnx"
        if not path.exists():
            seen = list(forward.images(min(batch, 2), self.size, forward.CPU))
            vitrail.export(self.model, path, images=seen, size=(self.size, self.size), batch=batch)
        return str(path)

    def _int8(self, batch: int, image: Path) -> str:
        """The export as OpenVINO runs it in int8, made in a process that has ended before any is measured."""
        check("nncf")
        path = self.folder / f"{batch}-int8.xml"
        if not path.exists():
            job = {"engine": "nncf", "onnx": self._onnx(batch), "image": str(image), "graph": str(path),
                   "threads": torch.get_num_threads()}
            try:
                Worker(f"NNCF with {self.name}", WORKER, job).close()
            except VitrailError as e:
                raise ExportError(f"NNCF cannot quantise this model: {e}") from e
        return str(path)


def beside(net: Net, batch: int, chosen: Sequence[Side], *, rounds: int) -> dict[str, Any]:
    """A row: every side's time, memory and share of the machine's rate of products, and how many times as long as ours
    it takes. `left_out` says why where an engine cannot take the model, or rounds it too coarsely in int8.

    Raises ModelError where another answer is not ours, VitrailError where a process dies. None is left behind.
    """
    with ExitStack() as stack:
        there: dict[Side, Worker] = {}
        left_out: dict[str, str] = {}
        differences: dict[Side, float] = {}
        for side in chosen:
            try:
                there[side] = stack.enter_context(Worker(f"{side} with {net.name}", WORKER, net.job(side, batch)))
            except (Refused, ModelError, ExportError, MissingExtra) as e:
                if side.ours:
                    raise
                left_out[str(side)] = str(e)
                continue
            differences[side] = _difference(net, side)
            if (wrong := _wrong(side, differences[side])) and side.precision == "int8" and not side.ours:
                there.pop(side).close()                                 # it rounds so: nobody's mistake
                left_out[str(side)] = wrong
            elif wrong:
                raise ModelError(f"{net.name}: {wrong}: a time would compare two things. Please report it; without "
                                 f"{side.engine} in --against the others are measured")
        products = {p: stack.enter_context(_product(p)) for p in dict.fromkeys(s.precision for s in there)}
        turns = {str(s): partial(_turn, w, np.mean) for s, w in there.items()}
        turns |= {f"product {p}": partial(_turn, w, np.min) for p, w in products.items()}
        times = in_turns(turns, rounds=rounds, warm=WARM)
        peaks = {s: w.ask({"end": True})["peak_bytes"] for s, w in there.items()}
        told = {str(side): {**asdict(side), "form": side.form, **worker.started, "peak_bytes": peaks[side],
                            "difference": differences[side], **_figures(net, batch, side, times)}
                for side, worker in there.items()}
    best = {p: MULTIPLY_ADDS / min(times[f"product {p}"].seconds) / 1e9 for p in products}
    return {"model": net.name, "batch": batch, "size": net.size, "rounds": rounds, "gflops": net.gflops,
            "product_gflops": best, "sides": told, "left_out": left_out}


def _product(precision: str) -> Worker:
    return Worker(f"product {precision}", WORKER, {"engine": "product", "precision": precision, "answer": "",
                                                   "threads": torch.get_num_threads()})


def _turn(worker: Worker, of: Any) -> float:
    """The seconds of a call: their mean, or of the product the least, as that is what the machine can do."""
    time.sleep(PAUSE)
    return float(of(worker.ask({})["seconds"]))


def _difference(net: Net, side: Side) -> float:
    """How far a side's answer is from ours as it is, of the deviation of ours."""
    ours, found = (load_file(net.folder / f"{s}.safetensors")["logits"] for s in (Side("vitrail"), side))
    return float(np.abs(ours - found).max() / ours.std()) if ours.shape == found.shape else float("inf")


def _wrong(side: Side, difference: float) -> str:
    """Why a side may not be timed; empty where its answer is within its bound."""
    bound = BOUNDS[side.precision]
    return "" if difference <= bound else (                             # nan is not
        f"the answers of {side} differ from ours by {difference:.2g} of their deviation ({bound:g} is allowed)")


def _figures(net: Net, batch: int, side: Side, times: dict[str, Times]) -> dict[str, Any]:
    """Medians with quartiles. share: of the rate of the product in this precision, round by round. over: how many times
    as long as each of ours of the same precision."""
    own, product = times[str(side)], times[f"product {side.precision}"]
    work = net.gflops * 1e9 * batch / MULTIPLY_ADDS                     # in units of the product
    ours = [s for s in (f"vitrail {side.precision}", f"optimised {side.precision}") if s in times]
    return {"ms": 1e3 * own.median, "ms_quartiles": [1e3 * q for q in own.quartiles],
            "images_a_second": batch / own.median, "share": [work * r for r in product.over(own)],
            "over": {} if side.ours else {s: list(own.over(times[s])) for s in ours}}
