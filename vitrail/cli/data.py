"""`vitrail data check PATH`: what a data set holds, and what is wrong with it."""
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitrail.cli.command import Command
from vitrail.cli.opening import check_free
from vitrail.cli.options import Overwrites
from vitrail.cli.output import log, print_json, print_line, size, table
from vitrail.core.errors import DataError
from vitrail.core.settings import like, setting
from vitrail.data.settings import Opening

if TYPE_CHECKING:
    from vitrail.data.check_report import Report

LISTED = 20             # of each kind of finding; --json lists all
INTERVAL = 5.0          # seconds between lines of progress


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites):
    """Which data, and what is written about them."""

    action: Literal["check"] = setting(positional=True, metavar="check", help="the one thing to do with data")
    path: str = setting(positional=True, metavar="PATH", help="digits, a folder of class folders, a .csv, hf:..., "
                                                              "wds:...")
    sheet: str = setting("", metavar="FILE.png", help="write a sheet of samples, some of each class")
    class_depth: int = like(Opening, "class_depth")
    threads: int = like(Opening, "threads", help="0: as many as processors")


def run(a: Settings, *, json: bool) -> int:
    check_free(a.sheet, overwrite=a.overwrite)
    from vitrail.data.check import checked

    report, source = checked(a.path, Opening(class_depth=a.class_depth, threads=a.threads), progress=_progress(json))
    if source is None and not json:
        raise DataError(report.faults[0])
    if json:
        print_json(report.to_json())
    else:
        _print(report)
    if a.sheet and source is not None and report.images > len(report.broken):
        from vitrail.data.sheet import sheet, write_sheet
        write_sheet(sheet(source), Path(a.sheet))
        log(f"wrote {a.sheet}")
    return 0 if report.ok else 1


def _progress(quiet: bool) -> Callable[[int, int], None]:
    """A line every few seconds on standard error; a short check says nothing."""
    last = time.monotonic()

    def told(done: int, of: int) -> None:
        nonlocal last
        if not quiet and time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            log(f"looked at {done:,} of {of:,} images")
    return told


def _print(report: "Report") -> None:
    print_line(f"{report.name}: {report.images:,} images of {len(report.classes)} classes")
    if report.splits:
        print_line("splits: " + ", ".join(f"{split} {count:,}" for split, count in report.splits.items()))
    if report.classes:
        print_line()
        splits = list(report.splits)
        rows = [(n, c.name, f"{c.images:,}", f"{c.readable:,}", *(f"{c.splits.get(name, 0):,}" for name in splits))
                for n, c in enumerate(report.classes)]
        table(("id", "class", "images", "readable", *splits), rows, right=("id", "images", "readable", *splits))
    if report.sizes is not None:
        s = report.sizes
        print_line(f"\nkinds: {', '.join(f'{count:,} {kind}' for kind, count in report.kinds.items())}")
        print_line(f"sizes, height x width: smallest {size(s.smallest)}, median {size(s.median)}, "
                   f"largest {size(s.largest)}; {s.different:,} different")
    _some("left out", [f"{x.key}: {x.why}" + (f" ({x.count:,} of them)" if x.count > 1 else "")
                       for x in report.skipped if not x.error])
    _some("the same picture", [" = ".join(d.keys[:4]) + " = ..." * (len(d.keys) > 4) for d in report.duplicates])
    _some("worth knowing", list(report.warnings))
    _some("FAULTS", list(report.faults))
    print_line("\nno faults: it can be trained on" if report.ok else
               f"\n{len(report.faults)} faults: mend them, or train with --on-error skip, which leaves such images out")


def _some(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    print_line(f"\n{title} ({len(lines):,}):")
    for line in lines[:LISTED]:
        print_line(f"  {line}")
    if len(lines) > LISTED:
        print_line(f"  ... and {len(lines) - LISTED:,} more; --json lists them all")
    sys.stdout.flush()


COMMAND = Command(about="Checks a data set: classes, sizes, broken files. Exit code 1 where it has faults.",
                  settings=Settings, run=run)
