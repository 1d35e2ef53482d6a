"""`vitrail bench`: forward passes on this machine; beside timm's, with the same weights, once the answers agree."""
import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import vitrail
from vitrail.cli import bench_attention, show
from vitrail.cli.command import Command, add_out, add_place, one_of, parser_of, whole
from vitrail.cli.opening import check_free, place
from vitrail.core import catalogue
from vitrail.core.card import Variant
from vitrail.core.errors import ModelError, SettingsError
from vitrail.core.extras import need
from vitrail.core.files import write_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MODELS = "vit_s16,swin_t"
TOLERANCE = 1e-5        # of the deviation of timm's logits


def counterpart(name: str, found: Variant[Any]) -> str:
    """timm's name of a model, read off the releases that timm keeps for it. Raises ModelError where there is none."""
    for release in found.weights:
        if release.keys == "timm" and (match := re.fullmatch(r"hf://timm/(\w+)(?:\.\w+)?/.+", release.source)):
            return match[1]
    raise ModelError(f"{name} has no release of timm's to tell its name there by: leave out --against timm")


def pair(name: str, size: int, device: "torch.device") -> "dict[str, nn.Module]":
    """Ours and timm's, filled with the same seeded noise. Raises ModelError where their answers differ."""
    import torch

    from vitrail.testing.noise import fill_

    timm = _timm()
    theirs = timm.create_model(counterpart(name, catalogue.variant_of(name)), pretrained=False, num_classes=1000).eval()
    fill_(theirs)
    ours = vitrail.create_model(name, classes=1000)
    vitrail.load_weights(ours, theirs.state_dict(), keys="timm")
    image = images(2, size, torch.device("cpu"))
    with torch.inference_mode():
        there, here = theirs(image), ours(image)
    apart = ((there - here).abs().max() / there.std()).item()
    if not apart <= TOLERANCE:
        raise ModelError(f"{name}: the answers differ from timm's by {apart:.2g} of their deviation: a time would "
                         "compare two things. Please report it")
    return {"vitrail": ours.to(device), "timm": theirs.to(device)}


def _timm() -> Any:
    from vitrail.core.torchvision_guard import import_torchvision
    import_torchvision()
    return need("timm")


def images(batch: int, size: int, device: "torch.device") -> "Tensor":
    import torch
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch)).to(device)


def measure(name: str, batches: list[int], *, against: str, optimize: Sequence[str], rounds: int, size: int,
            device: "torch.device") -> list[dict[str, Any]]:
    """A row a batch size: medians in milliseconds and, beside another side, the ratio with its quartiles. Of the
    precisions in `optimize`, how many times as long timm takes, or where it is not measured the model as it is."""
    from vitrail.measure import timing

    size = size or catalogue.find(name).image
    sides = pair(name, size, device) if against else {"vitrail": vitrail.create_model(name).to(device)}
    rows = []
    for batch in batches:
        x = images(batch, size, device)
        things: dict[str, Any] = {side: partial(model, x) for side, model in sides.items()}
        fast = {p: vitrail.optimize(sides["vitrail"], x, precision=p) for p in optimize}    # type: ignore[arg-type]
        things |= {p: partial(model, x) for p, model in fast.items()}
        times = timing.interleaved({**things, "yardstick": timing.yardstick(device)}, rounds=rounds, device=device)
        ours, product = times["vitrail"], times["yardstick"]
        row: dict[str, Any] = {"model": name, "batch": batch, "size": size, "rounds": rounds, "ms": 1e3 * ours.median,
               "images_a_second": batch / ours.median, "products": ours.over(product)[0],
               "yardstick_gflops": timing.gflops(product.median)}
        if against:
            middle, low, high = times[against].over(ours)
            row |= {"against": against, "against_ms": 1e3 * times[against].median, "ratio": middle,
                    "ratio_quartiles": [low, high]}
        for precision, model in fast.items():
            middle, low, high = times[against or "vitrail"].over(times[precision])
            row.setdefault("optimised", {})[precision] = {
                "ms": 1e3 * times[precision].median, "ratio": middle, "ratio_quartiles": [low, high],
                "rewritten": model.report.rewritten, "left": model.report.left, "difference": model.report.difference}
        rows.append(row)
    return rows


def _bench(a: Namespace) -> int:
    names = [n.strip() for n in a.models.split(",") if n.strip()]
    if not names:
        raise SettingsError("--models names no model: give names that `vitrail list` shows, with commas between")
    for name in names:
        catalogue.find(name)
    check_free(a.out, overwrite=a.overwrite)
    if a.against and a.size:
        raise SettingsError("timm's networks are made for one size: leave out --size, or --against timm")
    if a.against:
        _timm()                                     # missing? then before any model is made
    from vitrail.measure.machine import machine
    device, against = place(a), a.against or ""
    if a.optimize and device.type != "cpu":
        raise SettingsError(f"--optimize rewrites models for the processor, and this is {device}: add --device cpu")
    found: dict[str, Any] = {"machine": machine(device, *filter(None, (against,))), "rows": []}
    for name in names:
        found["rows"] += measure(name, a.batch, against=against, optimize=a.optimize, rounds=a.rounds, size=a.size,
                                 device=device)
        if not a.json:
            show.note(f"measured {name}")
    if a.out:
        write_file(a.out, json.dumps(found, indent=1) + "\n", overwrite=a.overwrite)
    if a.json:
        show.emit(found)
    else:
        _print(found, against, a.optimize)
    return 0


def _print(found: dict[str, Any], against: str, optimize: Sequence[str]) -> None:
    show.say(", ".join(f"{k} {v}" for k, v in found["machine"].items()))
    head = ["model", "batch", "size", "ms", "images/s", "products"]
    rows = [[r["model"], r["batch"], r["size"], f"{r['ms']:.2f}", f"{r['images_a_second']:.1f}", f"{r['products']:.1f}"]
            for r in found["rows"]]
    if against:
        head += [f"{against} ms", f"{against} / ours", "quartiles"]
        for row, r in zip(rows, found["rows"], strict=True):
            row += [f"{r['against_ms']:.2f}", f"{r['ratio']:.3f}", "{:.3f} to {:.3f}".format(*r["ratio_quartiles"])]
    for precision in optimize:
        head += [f"{precision} ms", f"{against or 'plain'} / {precision}", "quartiles"]
        for row, r in zip(rows, found["rows"], strict=True):
            told = r["optimised"][precision]
            row += [f"{told['ms']:.2f}", f"{told['ratio']:.3f}", "{:.3f} to {:.3f}".format(*told["ratio_quartiles"])]
    show.table(head, rows, right=head[1:])
    reached = [r["yardstick_gflops"] for r in found["rows"]]
    show.say(f"\nmedians of {found['rows'][0]['rounds']} rounds, everything in turn in one process; products: how many "
             f"1024 x 1024 float32 products the time is worth, which reached {min(reached):.0f} to {max(reached):.0f} "
             "1e9 multiply-adds a second" + ("; above 1 in the ratio, ours is faster" if against else ""))


def _arguments(p: ArgumentParser) -> None:
    p.add_argument("--models", default=MODELS, metavar="A,B", help=f"names that `vitrail list` shows ({MODELS})")
    p.add_argument("--batch", type=whole(1, 4096), nargs="+", default=[1, 8], metavar="N", help="batch sizes (1 8)")
    p.add_argument("--size", type=whole(0, 4096), default=0, metavar="N", help="pixels a side; 0: the model's own (0)")
    p.add_argument("--rounds", type=whole(1, 100_000), default=15, metavar="N", help="how often each is timed (15)")
    p.add_argument("--against", type=one_of(("timm",)), metavar="timm",
                   help="time timm's network too, with the same weights, after checking that the answers are the same")
    p.add_argument("--optimize", type=one_of(("fp32", "bf16")), nargs="+", default=[], metavar="fp32|bf16",
                   help="time the model as vitrail.optimize rewrites it, too, in each of these precisions")
    add_place(p)
    add_out(p, "FILE.json", "write the numbers there")


MODELS_COMMAND = Command(about="Times forward passes on this machine, as ratios within one process. `vitrail bench "
                               "attention` measures mechanisms instead.", run=_bench, arguments=_arguments)


def _parse(name: str, words: Sequence[str]) -> Namespace:
    """The models' arguments, or after the word `attention` those of the ledger."""
    if words and words[0] == "attention":
        chosen, name, words = bench_attention.COMMAND, f"{name} attention", words[1:]
    else:
        chosen = MODELS_COMMAND
    arguments = parser_of(name, chosen).read(words)
    arguments.command = chosen
    return arguments


COMMANDS = {"bench": Command(about=MODELS_COMMAND.about, parse=_parse, run=lambda a: a.command.run(a))}
