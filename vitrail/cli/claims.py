"""`vitrail claims list | run | report`: the field's claims, run again here."""
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_threads
from vitrail.cli.opening import set_threads
from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.evidence.claims.claim import Claim
from vitrail.evidence.claims.registry import CLAIMS, find

FOLDER = "docs/evidence"
ACTS = ("list", "run", "report")


def _claims(a: Namespace) -> int:
    if a.act not in ACTS:
        raise SettingsError(f"vitrail claims {a.act!r} is nothing.{did_you_mean(a.act, ACTS)} There are: {', '.join(ACTS)}")
    if a.act != "run" and (a.ids or a.smoke):
        raise SettingsError(f"claims {a.act} takes no ids and no --smoke; claims run does")
    return {"list": _list, "run": _run, "report": _report}[a.act](a)


def _list(a: Namespace) -> int:
    if a.json:
        show.emit([asdict(c) for c in CLAIMS.values()])
    else:
        show.table(("id", "kind", "claim"), [(c.id, c.kind, c.says) for c in CLAIMS.values()])
    return 0


def _run(a: Namespace) -> int:
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
        show.note(f"{claim.id}: {claim.says}")
        if a.smoke:
            outcome, path = run.run(claim, smoke=True), None
        elif a.out:
            outcome, path = run.publish(claim, Path(a.out), overwrite=a.overwrite)
        else:
            outcome, path = run.run(claim), None
        told.append({"id": claim.id, "held": outcome.held, "finding": outcome.finding, "numbers": dict(outcome.numbers),
                     "smoke": a.smoke, "file": path})
        if not a.json:
            word = "smoke run, no verdict" if a.smoke else run.verdict(outcome.held)
            show.say(f"{claim.id}: {word}. {outcome.finding}" + (f"\n  {path}" if path else ""))
    if a.json:
        show.emit(told)
    return 0


def _report(a: Namespace) -> int:
    from vitrail.evidence.claims.run import report
    path = report(Path(a.out or FOLDER))
    if a.json:
        show.emit({"page": path})
    else:
        show.say(str(path))
    return 0


def _arguments(p: ArgumentParser) -> None:
    p.add_argument("act", metavar="list|run|report", help="list them; run some; write the page over those that ran")
    p.add_argument("ids", nargs="*", metavar="ID", help="claims to run, or all, exact, cost or learning for many")
    p.add_argument("--smoke", action="store_true", help="run the machinery in seconds, for no verdict")
    p.add_argument("--out", default="", metavar="FOLDER", help=f"keep numbers and plots there (report: {FOLDER})")
    p.add_argument("--overwrite", action="store_true", help="replace a result that is there")
    add_threads(p)


COMMANDS = {"claims": Command(about="Claims of the field, run again in miniature, with what would refute each.",
                              run=_claims, arguments=_arguments)}
