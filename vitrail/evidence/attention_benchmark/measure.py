"""The ledger of attention: what every mechanism costs as the tokens grow, measured under one head layout.

Each is timed as the token mixer it is in a block, projections included, on square maps of N tokens, in inference; all
mechanisms of a size take turns in one process, which keeps the memory that it frees. Peak memory is counted
allocation by allocation, beside the input.
"""
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.allocator import kept_memory
from vitrail.core.catalogue import find, mechanism_of, names
from vitrail.core.errors import ModelError, SettingsError
from vitrail.core.mechanism import Mechanism, Takes
from vitrail.measure.fit import Growth, growth
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.measure.timing import interleaved

SIDES = (8, 16, 32, 48, 64, 96, 128)        # N = 64 to 16,384
TAIL = 2048                                 # exponents are those beyond so many tokens
DIM, HEADS = 256, 4


@dataclass(kw_only=True)
class Row:
    """One mechanism. Lists run over the sizes it was measured at; `skipped` says why others are missing."""

    name: str
    claimed_time: str
    claimed_memory: str
    params: int
    tokens: list[int] = field(default_factory=list)
    multiply_adds: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)        # a list of rounds for each size
    peak: list[int] = field(default_factory=list)                   # bytes
    skipped: str = ""

    def median(self, at: int) -> float:
        return statistics.median(self.seconds[at])

    def time(self) -> Growth | None:
        """How its time grows beyond TAIL tokens; None where it was measured at fewer than two such sizes."""
        return self._growth(self.seconds)

    def memory(self) -> Growth | None:
        """How its peak grows beyond TAIL tokens."""
        return self._growth([[p] for p in self.peak])

    def _growth(self, costs: Sequence[Sequence[float]]) -> Growth | None:
        far = [i for i, n in enumerate(self.tokens) if n >= TAIL]
        return growth([self.tokens[i] for i in far], [costs[i] for i in far]) if len(far) > 1 else None

    def to_json(self) -> dict[str, Any]:
        def of(found: Growth | None) -> dict[str, float] | None:
            return None if found is None else {k: round(v, 4) for k, v in asdict(found).items() if k != "factor"}
        told = asdict(self) | {"seconds": [round(statistics.median(s), 7) for s in self.seconds]}
        return told | {"time_exponent": of(self.time()), "memory_exponent": of(self.memory())}


def mixing(chosen: Iterable[str] = ()) -> list[str]:
    """The mechanisms that can mix a map's tokens: all, or those chosen. Raises ModelError for one that cannot."""
    able = [n for n in names("attention") if find(n).mixes]
    if not (wanted := list(dict.fromkeys(chosen))):
        return able
    for name in wanted:
        found = mechanism_of(name)
        if isinstance(found.mixer, str):
            raise ModelError(f"{name} cannot be measured on a map's tokens: {found.mixer}")
    return wanted


def make(found: Mechanism, side: int, *, dim: int = DIM, heads: int = HEADS) -> tuple[nn.Module, Tensor]:
    """A mechanism born for a square map, and such a map of normal numbers, in the layout that it takes."""
    assert not isinstance(found.mixer, str)
    torch.manual_seed(0)
    mixer = found.mixer(dim, heads, (side, side)).eval()
    x = torch.randn(1, side, side, dim, generator=torch.Generator().manual_seed(side))
    return mixer, x.flatten(1, 2) if found.takes is Takes.TOKENS else x


def measure(chosen: Iterable[str] = (), *, sides: Sequence[int] = SIDES, dim: int = DIM, heads: int = HEADS,
            rounds: int = 5, limit_gb: float = 4.0, others: Mapping[str, Mechanism] = MappingProxyType({}),
            tell: Callable[[str], None] = lambda text: None) -> list[Row]:
    """A row a mechanism. Sizes whose peak would pass `limit_gb` GiB, as those before foretell, are left out.

    others: mechanisms that the catalogue does not hold, to be measured beside those chosen. tell: is told of progress.
    Raises SettingsError for sizes that are no sides of maps.
    """
    if not sides or min(sides) < 1 or list(sides) != sorted(set(sides)):
        raise SettingsError(f"the sides of maps {tuple(sides)} must be whole numbers, each larger than the one before")
    rows, known = [], {name: mechanism_of(name) for name in mixing(chosen)} | dict(others)
    for name, found in known.items():
        mixer, _ = make(found, sides[0], dim=dim, heads=heads)
        rows.append(Row(name=name, claimed_time=str(found.time), claimed_memory=str(found.memory),
                        params=sum(p.numel() for p in mixer.parameters())))
    for side in sides:
        running: dict[str, Callable[[], object]] = {}
        for row in rows:
            if row.skipped or (foretold := _foretold(row, side * side)) > limit_gb * 2**30:
                row.skipped = row.skipped or (f"from N = {side * side:,} on: it would hold about "
                                              f"{foretold / 2**30:.0f} GiB")
                continue
            mixer, x = make(known[row.name], side, dim=dim, heads=heads)
            row.tokens.append(side * side)
            row.multiply_adds.append(multiply_adds(partial(mixer, x)))
            with torch.inference_mode():
                row.peak.append(peak_bytes(partial(mixer, x)))
            running[row.name] = partial(mixer, x)
        with kept_memory():
            times = interleaved(running, rounds=rounds, device=torch.device("cpu"), warm=1)
        for row in rows:
            if row.name in times:
                row.seconds.append(list(times[row.name].seconds))
        tell(f"N = {side * side:,}: {len(running)} mechanisms")
    return rows


def _foretold(row: Row, tokens: int) -> float:
    """The peak to expect at a larger size, from the last two."""
    if len(row.peak) < 2:
        return 0.0
    last = growth(row.tokens[-2:], [[p] for p in row.peak[-2:]])
    return last.factor * tokens ** last.exponent
