"""`vitrail bench attention`: the ledger of what every mechanism costs."""
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from vitrail.cli.command import Command
from vitrail.cli.opening import check_free, set_threads
from vitrail.cli.options import Overwrites, Threads
from vitrail.cli.output import log, print_json, print_line, table
from vitrail.core.errors import SettingsError
from vitrail.core.files import atomic_folder
from vitrail.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, Threads):
    """Which mechanisms, at which sizes."""

    mechanisms: str = setting("", metavar="A,B", help="names that `vitrail list --kind attention` shows; left out: all "
                                                      "that can mix a map's tokens")
    tokens: tuple[int, ...] = setting((), low=1, high=1 << 20, help="square numbers of tokens (64 256 1024 2304 4096 "
                                                                    "9216 16384)")
    dim: int = setting(256, low=1, high=1 << 16, help="the width")
    heads: int = setting(4, low=1, high=1 << 10, help="where there are heads")
    rounds: int = setting(5, low=1, high=100_000, help="how often each is timed")
    limit_gb: int = setting(4, low=1, high=1 << 20, help="sizes that would hold more than so many GiB are left out")
    out: str = setting("", metavar="FOLDER", help="write the table, the numbers and the plot there")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sides()

    def sides(self) -> list[int]:
        """The sides of the square maps, each once. Raises SettingsError for tokens that make no square."""
        for tokens in self.tokens:
            side = round(tokens**0.5)
            if side * side != tokens:
                raise SettingsError(f"the setting 'tokens' is {tokens}, which is not a square map: try {side * side} "
                                    f"or {(side + 1)**2}")
        return sorted({round(tokens**0.5) for tokens in self.tokens})


def run(a: Settings, *, json: bool) -> int:
    check_free(a.out, overwrite=a.overwrite)
    set_threads(a)
    import torch

    from vitrail.evidence.attention_benchmark import measure as ledger
    from vitrail.evidence.attention_benchmark import pages as ledger_pages
    from vitrail.measure.machine import machine
    from vitrail.figures.style import png

    chosen = [n.strip() for n in a.mechanisms.split(",") if n.strip()]
    rows = ledger.measure(chosen, sides=a.sides() or ledger.SIDES, dim=a.dim, heads=a.heads,
                          rounds=a.rounds, limit_gb=a.limit_gb, tell=log)
    here = machine(torch.device("cpu"))
    told = {"machine": here, "dim": a.dim, "heads": a.heads, "rounds": a.rounds, "rows": [r.to_json() for r in rows]}
    if a.out:
        command = "vitrail bench attention" + (f" --mechanisms {a.mechanisms}" if chosen else "")
        with atomic_folder(Path(a.out), overwrite=a.overwrite) as new:
            (new / "attention.json").write_text(dumps(told, indent=1) + "\n", encoding="utf-8")
            (new / "attention.md").write_text(ledger_pages.page(rows, here, command), encoding="utf-8")
            (new / "attention.png").write_bytes(png(ledger_pages.plot(rows)))
    if json:
        print_json(told)
        return 0
    table(ledger_pages.HEAD, ledger_pages.cells(rows), right=("N", "ms", "MiB"))
    for row in rows:
        if row.skipped:
            print_line(f"{row.name}: not measured {row.skipped}")
    if a.out:
        print_line(f"\n{Path(a.out) / 'attention.md'}")
    return 0


COMMAND = Command(about="Time and peak memory of every mechanism of attention against the number of tokens, with the "
                        "exponents they grow by.", settings=Settings, run=run)
