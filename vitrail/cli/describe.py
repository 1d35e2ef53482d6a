"""What `vitrail show` and `diff` tell of a system, a mechanism or a position code, beyond its line in the table."""
import inspect
from dataclasses import asdict
from typing import Any

from vitrail.cli.output import pairs, print_line
from vitrail.core.card import Variant
from vitrail.core.mechanism import Mechanism, Position

Declared = Variant[Any] | Mechanism | Position


def arguments(found: Declared) -> dict[str, Any]:
    """The arguments of what it builds, with their values; those that a caller must give say so."""
    if isinstance(found, Variant):
        return found.settings()
    known = inspect.signature(found.build).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in known}


class _Required:
    def __repr__(self) -> str:
        return "(to be given)"


REQUIRED = _Required()


def as_json(found: Declared) -> dict[str, Any]:
    """The same for programs."""
    told: dict[str, Any] = {"arguments": {k: None if v is REQUIRED else v for k, v in arguments(found).items()}}
    if isinstance(found, Variant):
        return told | {"reported": found.figures.reported, "reported_in": found.figures.where,
                       "weights": [asdict(w) for w in found.weights]}
    told |= {"class": f"{found.build.__module__}.{found.build.__qualname__}"}
    if isinstance(found, Mechanism):
        why = found.mixer if isinstance(found.mixer, str) else ""
        return told | {"where": found.where, "shows": found.shows, "no_mixer_because": why}
    return told | {"fits": found.fits, "lesson": found.lesson}


def say(found: Declared) -> None:
    """The same for people."""
    if isinstance(found, Variant):
        return _say_variant(found)
    lines = {"class": f"{found.build.__module__}.{found.build.__qualname__}"}
    if isinstance(found, Mechanism):
        lines |= {"order": f"time {found.time}, memory {found.memory}" + (f" ({found.where})" if found.where else ""),
                  "record": found.shows,
                  "mixer": f"no: {found.mixer}" if isinstance(found.mixer, str) else "yes, of any plain backbone"}
    else:
        lines |= {"elsewhere": found.fits, **({"lesson": found.lesson} if found.lesson else {})}
    for name, text in lines.items():
        print_line(f"{name.ljust(11)}{text}")
    print_line("\narguments")
    pairs({k: repr(v) for k, v in arguments(found).items()}, indent="  ")
    return None


def _say_variant(found: Variant[Any]) -> None:
    if found.figures.reported:
        reported = ", ".join(f"{k} {v:g}" for k, v in found.figures.reported.items())
        print_line(f"reported   {reported}" + (f" ({found.figures.where})" if found.figures.where else ""))
    print_line("\narguments  (create_model and --set take any of them)")
    pairs({k: repr(v) for k, v in arguments(found).items()}, indent="  ")
    print_line("\nreleases" if found.weights else "\nno weights were released for it")
    for w in found.weights:
        score = "".join(f", {k} {v:g}" for k, v in w.reported.items())
        size = f", {w.classes or 'no'} classes, {w.image} px" if w.image else ""
        said = f"{score} ({w.where})" if score and w.where else score
        print_line(f"  {w.name}  {w.license}{size}, keys={w.keys}{said}\n    {w.source}")
