"""`vitrail data check PATH`: what a data set holds, and what is wrong with it."""
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli import show
from vitrail.cli.command import Command, one_of, whole
from vitrail.cli.opening import check_free
from vitrail.core.errors import DataError

if TYPE_CHECKING:
    from vitrail.data.check_report import Report

LISTED = 20             # of each kind of finding; --json lists all
INTERVAL = 5.0          # seconds between lines of progress


def _check(a: Namespace) -> int:
    check_free(a.sheet, overwrite=a.overwrite)
    from vitrail.data.check import checked
    from vitrail.data.settings import Opening

    report, source = checked(a.path, Opening(class_depth=a.class_depth, threads=a.threads), progress=_progress(a.json))
    if source is None and not a.json:
        raise DataError(report.faults[0])
    if a.json:
        show.emit(report.to_json())
    else:
        _print(report)
    if a.sheet and source is not None and report.images > len(report.broken):
        from vitrail.data.sheet import sheet, write_sheet
        write_sheet(sheet(source), Path(a.sheet))
        show.note(f"wrote {a.sheet}")
    return 0 if report.ok else 1


def _progress(quiet: bool) -> Callable[[int, int], None]:
    """A line every few seconds on standard error; a short check says nothing."""
    last = time.monotonic()

    def told(done: int, of: int) -> None:
        nonlocal last
        if not quiet and time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            show.note(f"looked at {done:,} of {of:,} images")
    return told


def _print(report: "Report") -> None:
    show.say(f"{report.name}: {report.images:,} images of {len(report.classes)} classes")
    if report.splits:
        show.say("splits: " + ", ".join(f"{split} {count:,}" for split, count in report.splits.items()))
    if report.classes:
        show.say()
        splits = list(report.splits)
        rows = [(n, c.name, f"{c.images:,}", f"{c.readable:,}", *(f"{c.splits.get(p, 0):,}" for p in splits))
                for n, c in enumerate(report.classes)]
        show.table(("id", "class", "images", "readable", *splits), rows, right=("id", "images", "readable", *splits))
    if report.sizes is not None:
        s = report.sizes
        show.say(f"\nkinds: {', '.join(f'{count:,} {kind}' for kind, count in report.kinds.items())}")
        show.say(f"sizes, height x width: smallest {show.size(s.smallest)}, median {show.size(s.median)}, "
                 f"largest {show.size(s.largest)}; {s.different:,} different")
    _some("left out", [f"{x.key}: {x.why}" + (f" ({x.count:,} of them)" if x.count > 1 else "")
                       for x in report.skipped if not x.error])
    _some("the same picture", [" = ".join(d.keys[:4]) + " = ..." * (len(d.keys) > 4) for d in report.duplicates])
    _some("worth knowing", list(report.warnings))
    _some("FAULTS", list(report.faults))
    show.say("\nno faults: it can be trained on" if report.ok else
             f"\n{len(report.faults)} faults: mend them, or train with --on-error skip, which leaves such images out")


def _some(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    show.say(f"\n{title} ({len(lines):,}):")
    for line in lines[:LISTED]:
        show.say(f"  {line}")
    if len(lines) > LISTED:
        show.say(f"  ... and {len(lines) - LISTED:,} more; --json lists them all")
    sys.stdout.flush()


def _arguments(p: ArgumentParser) -> None:
    p.add_argument("action", metavar="check", type=one_of(("check",)), help="the one thing to do with data")
    p.add_argument("path", metavar="PATH", help="digits, a folder of class folders, a .csv, hf:..., wds:...")
    p.add_argument("--sheet", default="", metavar="FILE.png", help="write a sheet of samples, some of each class")
    p.add_argument("--overwrite", action="store_true", help="replace the sheet that is there")
    p.add_argument("--class-depth", type=whole(0, 64), default=0, metavar="N",
                   help="folder levels that name a class; 0: down to the images (0)")
    p.add_argument("--threads", type=whole(0, 256), default=0, metavar="N", help="0: as many as processors (0)")


COMMANDS = {"data": Command(about="Checks a data set: classes, sizes, broken files. Exit code 1 where it has faults.",
                            run=_check, arguments=_arguments)}
