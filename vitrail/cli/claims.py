"""`vitrail claims list | run | report`: the field's claims, run again here."""
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vitrail.cli.command import Command
from vitrail.cli.opening import set_threads
from vitrail.cli.options import Overwrites, Threads
from vitrail.cli.output import log, print_json, print_line, table
from vitrail.core.errors import SettingsError
from vitrail.core.settings import setting
from vitrail.evidence.claims.claim import Claim
from vitrail.evidence.claims.registry import CLAIMS, find

FOLDER = "docs/evidence"


@dataclass(frozen=True, kw_only=True)
class Settings(Threads, Overwrites):
    """Which claims, and where their results are kept."""

    action: Literal["list", "run", "report"] = setting(
        positional=True, help="list them; run some; write the page over those that ran")
    ids: tuple[str, ...] = setting((), positional=True, metavar="ID", help="claims to run, or all, exact, cost or "
                                                                           "learning for many")
    smoke: bool = setting(False, help="run the machinery in seconds, for no verdict")
    out: str = setting("", metavar="FOLDER", help=f"keep numbers and plots there (report: {FOLDER})")


def run(a: Settings, *, json: bool) -> int:
    if a.action != "run" and (a.ids or a.smoke):
        raise SettingsError(f"claims {a.action} takes no ids and no --smoke; claims run does")
    return {"list": _list, "run": _run, "report": _report}[a.action](a, json)


def _list(a: Settings, json: bool) -> int:
    if json:
        print_json([asdict(c) for c in CLAIMS.values()])
    else:
        table(("id", "kind", "claim"), [(c.id, c.kind, c.says) for c in CLAIMS.values()])
    return 0


def _run(a: Settings, json: bool) -> int:
    if not a.ids:
        raise SettingsError("vitrail claims run needs ids, or one of the words all, exact, cost and learning; "
                            "`vitrail claims list` shows them")
    wanted: list[Claim] = []
    for word in a.ids:
        wanted += [c for c in CLAIMS.values() if word in ("all", c.kind)] or [find(word)]
    set_threads(a)
    from vitrail.evidence.claims import run
    told = []
    for claim in dict.fromkeys(wanted):
        log(f"{claim.id}: {claim.says}")
        if a.smoke:
            outcome, path = run.run(claim, smoke=True), None
        elif a.out:
            outcome, path = run.publish(claim, Path(a.out), overwrite=a.overwrite)
        else:
            outcome, path = run.run(claim), None
        told.append({"id": claim.id, "held": outcome.held, "finding": outcome.finding, "numbers": dict(outcome.numbers),
                     "smoke": a.smoke, "file": path})
        if not json:
            word = "smoke run, no verdict" if a.smoke else run.verdict(outcome.held)
            print_line(f"{claim.id}: {word}. {outcome.finding}" + (f"\n  {path}" if path else ""))
    if json:
        print_json(told)
    return 0


def _report(a: Settings, json: bool) -> int:
    from vitrail.evidence.claims.run import report
    path = report(Path(a.out or FOLDER))
    if json:
        print_json({"page": path})
    else:
        print_line(str(path))
    return 0


COMMAND = Command(about="Claims of the field, run again in miniature, with what would refute each.", settings=Settings,
                  run=run)
