"""One engine with one model, in a process of its own: `python -m vitrail.evidence.engines.worker`.

Its job says which; it answers each turn with the seconds of its calls, and at the end with the most that it held.
"""
import gc
import os
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from safetensors.numpy import load_file, save_file

from vitrail.core.errors import ModelError
from vitrail.core.extras import version
from vitrail.measure.resident import forget_peak, peak_bytes_resident, resident_bytes
from vitrail.measure.workers import pin, serve

TURN = 0.1              # seconds that a turn lasts at least
MOST = 1000             # calls of a turn
Job = Mapping[str, Any]
Call = Callable[[], Any]                                # answers with an array or a tensor of logits (B, classes)
Build = Callable[[], tuple[Call, dict[str, Any]]]       # the call, and what the engine tells of itself

# Each engine is imported by the first call, which gives the one that builds the model: between the two it is read how
# much memory the process holds. Those of torch have run by then, for it loads much at the first use; the others import
# no torch.


def _eager(job: Job, network: Callable[[], Any], logits: Callable[[Any], Any] = lambda out: out) -> Build:
    """A module of torch as it is, in the job's precision."""
    import torch
    torch.set_num_threads(job["threads"])
    _tiny()

    def build() -> tuple[Call, dict[str, Any]]:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["precision"]]
        module = network().requires_grad_(False).eval().to(dtype)
        image = torch.from_numpy(load_file(job["image"])["image"]).to(dtype)

        def call() -> Any:
            with torch.inference_mode():
                return logits(module(image))
        return call, {"threads": torch.get_num_threads()}
    return build


def _vitrail(job: Job) -> Build:
    from vitrail.models import create_model
    _ours(job)
    return _eager(job, lambda: create_model(job["model"], weights=job["state"]))


def _ours(job: Job) -> None:
    """Imports what making the model would import."""
    import vitrail.tasks.classification.model  # noqa: F401
    from vitrail.core.catalogue import variant_of
    variant_of(job["model"])


def _tiny() -> Any:
    """A model of almost nothing, which has run, and its image."""
    import torch

    from vitrail.models import create_model
    model, image = create_model("vit_ti16", depth=1, dim=16, heads=1, image=32, classes=2), torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        model(image)
    return model, image


def _optimised(job: Job) -> Build:
    import torch

    from vitrail.deploy.optimize import optimize
    from vitrail.models import create_model
    torch.set_num_threads(job["threads"])
    _ours(job)
    optimize(*_tiny(), precision=job["precision"])

    def build() -> tuple[Call, dict[str, Any]]:
        image = torch.from_numpy(load_file(job["image"])["image"])
        module = optimize(create_model(job["model"], weights=job["state"]), image, precision=job["precision"],
                          keep=False)
        report = module.report
        return lambda: module(image), {"threads": torch.get_num_threads(), "rewritten": report.rewritten,
                                       "left": report.left}
    return build


def _timm(job: Job) -> Build:
    from vitrail.core.tensors import read_tensors
    from vitrail.core.torchvision_guard import import_torchvision
    from vitrail.evidence.engines.forward import timm_network
    import_torchvision()
    import timm  # noqa: F401
    return _eager(job, lambda: timm_network(job["model"], read_tensors(job["state"])))


def _transformers(job: Job) -> Build:
    from vitrail.core.tensors import read_tensors
    from vitrail.core.torchvision_guard import import_torchvision
    from vitrail.evidence.engines.forward import carry
    import_torchvision()
    import transformers
    made, config = getattr(transformers, job["model"]), getattr(transformers, job["config"])

    def network() -> Any:
        found = carry(read_tensors(job["state"]), made(config(**job["arguments"])))
        for name, part in found.named_modules():
            for pattern, epsilon in job["epsilons"].items():
                if fnmatchcase(name, pattern):
                    part.eps = epsilon
        return found
    return _eager(job, network, lambda out: out.logits)


def _onnxruntime(job: Job) -> Build:
    import onnxruntime

    def build() -> tuple[Call, dict[str, Any]]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        # its threads may spin within a call, as they do by default, and not when it is another's turn
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(job["graph"], options, providers=["CPUExecutionProvider"])
        given = {"image": load_file(job["image"])["image"]}
        return lambda: session.run(["logits"], given)[0], {"threads": options.intra_op_num_threads}
    return build


def _openvino(job: Job) -> Build:
    import openvino

    def build() -> tuple[Call, dict[str, Any]]:
        core, bf16 = openvino.Core(), openvino.Type.bf16
        # in int8 what lies between may be in bf16: ViT-S, batch 8, takes 104 ms so and 115 with float32, and differs as
        # little from ours. A processor without bf16 gets float32, which is said and is no reason to refuse
        wanted = {"fp32": openvino.Type.f32, "bf16": bf16, "int8": bf16}[job["precision"]]
        compiled = core.compile_model(core.read_model(job["graph"]), "CPU", {
            "INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY"})
        held = compiled.get_property("INFERENCE_PRECISION_HINT")
        if held != wanted and job["precision"] != "int8":
            raise ModelError(f"OpenVINO runs in {held.to_string()} here, not in {job['precision']}")
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(load_file(job["image"])["image"]))

        def call() -> Any:
            request.infer()
            return request.get_output_tensor(0).data
        told = {"threads": compiled.get_property("INFERENCE_NUM_THREADS")}
        if job["precision"] == "int8":
            told |= {"rest_in": held.to_string(), "nncf": version("nncf")}
        return call, told
    return build


def quantise(job: Job) -> None:
    """Writes an ONNX file's network in int8, for OpenVINO: by NNCF as its guide says for transformers, with ranges of
    the job's images, from which ours has its own. Raises ModelError where it finds nothing to quantise."""
    os.environ["NNCF_CI"] = "1"                         # else it tells its makers of every use, over the network
    import nncf
    import openvino
    images = nncf.Dataset([load_file(job["image"])["image"]])
    made = nncf.quantize(openvino.Core().read_model(job["onnx"]), images, model_type=nncf.ModelType.TRANSFORMER,
                         subset_size=1)
    if not any(op.get_type_name() == "FakeQuantize" for op in made.get_ops()):
        raise ModelError("it finds nothing to quantise")
    openvino.save_model(made, job["graph"], compress_to_fp16=False)


def _product(job: Job) -> Build:
    """No model: the machine's own measure."""
    import torch

    from vitrail.measure.product import packed_product
    torch.set_num_threads(job["threads"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[job["precision"]]
    return lambda: (packed_product(dtype), {"threads": torch.get_num_threads()})


ENGINES: dict[str, Callable[[Job], Build]] = {
    "vitrail": _vitrail, "optimised": _optimised, "timm": _timm, "transformers": _transformers,
    "onnxruntime": _onnxruntime, "openvino": _openvino, "product": _product}


def start(job: Job) -> tuple[dict[str, Any], Callable[[Job], dict[str, Any]]]:
    """Builds what the job names and writes its answer for comparison; then takes turns. NNCF has done its job by then:
    in a process that is not measured, as it holds much memory, and threads."""
    processors = pin(job["threads"])
    if job["engine"] == "nncf":
        quantise(job)
        return {}, lambda question: {}
    build = ENGINES[job["engine"]](job)
    before = resident_bytes()
    call, told = build()
    answer = call()
    if job["answer"]:
        save_file({"logits": _array(answer)}, job["answer"])
    del answer
    gc.collect()
    counted = forget_peak() and before is not None              # else the peak would be that of building it
    once = _timed(call)

    def turn(question: Job) -> dict[str, Any]:
        nonlocal once
        if "end" in question:
            peak = peak_bytes_resident()
            return {"peak_bytes": peak - before if counted and peak is not None and before is not None else None}
        if once < TURN:                                         # wakes the threads, and fetches what another pushed out
            call()
        seconds = [_timed(call)]
        while sum(seconds) < TURN and len(seconds) < MOST:
            seconds.append(_timed(call))
        once = min(seconds)
        return {"seconds": seconds}
    return {**told, "processors": processors, "before_bytes": before}, turn


def _timed(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _array(answer: Any) -> Any:
    """As float32 of numpy, the engine's own memory left alone."""
    return (answer.float().numpy() if hasattr(answer, "numpy") else answer).copy()


if __name__ == "__main__":
    serve(start)
