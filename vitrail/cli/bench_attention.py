"""`vitrail bench attention`: the ledger of what every mechanism costs."""
import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_out, add_threads, whole
from vitrail.cli.opening import check_free, set_threads
from vitrail.core.files import atomic_folder


def _sides(text: str) -> int:
    """The side of a square map of so many tokens."""
    tokens = whole(1, 1 << 20)(text)
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ArgumentTypeError(f"{tokens} tokens are no square map: try {side * side} or {(side + 1)**2}")
    return side


def _run(a: Namespace) -> int:
    check_free(a.out, overwrite=a.overwrite)
    set_threads(a)
    import torch

    from vitrail.evidence.attention_benchmark import measure as ledger
    from vitrail.evidence.attention_benchmark import pages as ledger_pages
    from vitrail.measure.machine import machine
    from vitrail.figures.style import png

    chosen = [n.strip() for n in a.mechanisms.split(",") if n.strip()]
    rows = ledger.measure(chosen, sides=sorted(set(a.tokens)) or ledger.SIDES, dim=a.dim, heads=a.heads,
                          rounds=a.rounds, limit_gb=a.limit_gb, tell=show.note)
    here = machine(torch.device("cpu"))
    told = {"machine": here, "dim": a.dim, "heads": a.heads, "rounds": a.rounds, "rows": [r.to_json() for r in rows]}
    if a.out:
        command = "vitrail bench attention" + (f" --mechanisms {a.mechanisms}" if chosen else "")
        with atomic_folder(Path(a.out), overwrite=a.overwrite) as new:
            (new / "attention.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            (new / "attention.md").write_text(ledger_pages.page(rows, here, command), encoding="utf-8")
            (new / "attention.png").write_bytes(png(ledger_pages.plot(rows)))
    if a.json:
        show.emit(told)
        return 0
    show.table(ledger_pages.HEAD, ledger_pages.cells(rows), right=("N", "ms", "MiB"))
    for row in rows:
        if row.skipped:
            show.say(f"{row.name}: not measured {row.skipped}")
    if a.out:
        show.say(f"\n{Path(a.out) / 'attention.md'}")
    return 0


def _arguments(p: ArgumentParser) -> None:
    p.add_argument("--mechanisms", default="", metavar="A,B", help="names that `vitrail list --kind attention` shows; "
                                                                   "left out: all that can mix a map's tokens")
    p.add_argument("--tokens", type=_sides, nargs="+", default=[], metavar="N",
                   help="square numbers of tokens (64 256 1024 2304 4096 9216 16384)")
    p.add_argument("--dim", type=whole(1, 1 << 16), default=256, metavar="N", help="the width (256)")
    p.add_argument("--heads", type=whole(1, 1 << 10), default=4, metavar="N", help="where there are heads (4)")
    p.add_argument("--rounds", type=whole(1, 100_000), default=5, metavar="N", help="how often each is timed (5)")
    p.add_argument("--limit-gb", type=whole(1, 1 << 20), default=4, metavar="N",
                   help="sizes that would hold more than so many GiB are left out (4)")
    add_threads(p)
    add_out(p, "FOLDER", "write the table, the numbers and the plot there")


COMMAND = Command(about="Time and peak memory of every mechanism of attention against the number of tokens, with the "
                        "exponents they grow by.", run=_run, arguments=_arguments)
