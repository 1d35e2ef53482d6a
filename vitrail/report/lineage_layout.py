"""Where the papers of a lineage stand: years from left to right, relatives near each other, no line behind a box."""
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

ALONE = 8               # papers without relatives under one another
LANE = 0.35             # rows that a line takes where it passes a column
SWEEPS = 40

Line = tuple[str, str]          # the older paper and the one that builds on it
_Spot = tuple[str, int]         # a paper and its column, or a column that the lines from a paper pass


@dataclass(frozen=True)
class Arranged:
    """places: (column, row) of each paper. years: the first and the last column of each. lanes: the rows in which the
    lines from a paper pass the columns between. alone: the row from which on those without relatives stand.
    """

    places: dict[str, tuple[float, float]]
    years: dict[int, tuple[int, int]]
    lanes: dict[tuple[str, int], float]
    alone: float


def arrange(year_of: Mapping[str, int], lines: Collection[Line]) -> Arranged:
    """Within a year what builds on another stands right of it; a row is near the rows of its relatives, and no line
    passes behind a paper."""
    related = {paper for line in lines for paper in line}
    level = _levels(year_of, lines)
    alone = defaultdict[int, list[str]](list)
    for paper in sorted(set(year_of) - related):
        alone[year_of[paper]].append(paper)
    years = dict[int, tuple[int, int]]()
    first = 0
    for year in sorted(set(year_of.values())):
        deep = max(level[paper] for paper in year_of if year_of[paper] == year) + 1
        width = max(deep, -(-len(alone[year]) // ALONE))
        years[year] = (first, first + width - 1)
        first += width
    column = {paper: years[year_of[paper]][0] + level[paper] for paper in related}
    lanes, joined = _lanes(column, lines)
    rows = _rows([(paper, column[paper]) for paper in sorted(related)], lanes, joined)
    under = max(rows.values(), default=-2.0) + 2
    places = {paper: (float(column[paper]), rows[paper, column[paper]]) for paper in related}
    for year, papers in alone.items():
        for i, paper in enumerate(papers):
            places[paper] = (float(years[year][0] + i // ALONE), under + i % ALONE)
    return Arranged(places, years, {lane: rows[lane] for lane in lanes}, under)


def _levels(year_of: Mapping[str, int], lines: Collection[Line]) -> dict[str, int]:
    """How many columns of its year stand left of each paper."""
    level = dict.fromkeys(year_of, 0)
    within = [(old, new) for old, new in sorted(lines) if year_of[old] == year_of[new]]
    for _ in year_of:                                           # as often as the longest line could be
        for old, new in within:
            level[new] = max(level[new], level[old] + 1)
    return level


def _lanes(column: Mapping[str, int], lines: Collection[Line]) -> tuple[list[_Spot], list[tuple[_Spot, _Spot]]]:
    """The columns that the lines from each paper pass, and which spots are joined."""
    lanes = list[_Spot]()
    joined = list[tuple[_Spot, _Spot]]()
    for old in sorted({old for old, _ in lines}):
        for way in (1, -1):                                     # an import may be of a paper that appeared later
            ends = sorted(new for start, new in lines if start == old and (column[new] - column[old]) * way > 0)
            far = max((abs(column[new] - column[old]) for new in ends), default=1)
            spots: list[_Spot] = [(old, column[old] + way * i) for i in range(far)]
            lanes += spots[1:]
            joined += zip(spots, spots[1:], strict=False)
            joined += [((old, column[new] - way), (new, column[new])) for new in ends]
    return lanes, joined


def _rows(papers: Sequence[_Spot], lanes: Sequence[_Spot], joined: Sequence[tuple[_Spot, _Spot]]) -> dict[_Spot, float]:
    """Rows that keep near each other what is joined, with room between all that share a column."""
    beside = defaultdict[_Spot, list[_Spot]](list)
    members = defaultdict[int, list[_Spot]](list)
    for start, end in joined:
        beside[start].append(end)
        beside[end].append(start)
    for spot in (*papers, *lanes):
        members[spot[1]].append(spot)
    room = {**dict.fromkeys(papers, 1.0), **dict.fromkeys(lanes, LANE)}
    rows = {spot: float(i) for group in members.values() for i, spot in enumerate(group)}
    for sweep in range(SWEEPS):
        for at in sorted(members, reverse=bool(sweep % 2)):
            wanted = {spot: sum(rows[o] for o in beside[spot]) / len(beside[spot]) for spot in members[at]}
            ranked = sorted(members[at], key=lambda spot: (wanted[spot], rows[spot], spot))
            moved = apart([wanted[spot] for spot in ranked], [room[spot] for spot in ranked])
            rows |= dict(zip(ranked, moved, strict=True))
    lowest = min(rows.values(), default=0.0)
    return {spot: row - lowest for spot, row in rows.items()}


def apart(wanted: Sequence[float], room: Sequence[float]) -> list[float]:
    """Ascending numbers, moved as little as leaves each its room to both sides (the sum of squares is least).

    `apart([2.0, 2.0], [1, 1])` is [1.5, 2.5].
    """
    starts = [sum(room[:i]) + room[i] / 2 for i in range(len(room))]
    groups: list[tuple[float, int]] = []                        # mean of what is wanted less the start, and how many
    for value, start in zip(wanted, starts, strict=True):
        mean = value - start
        count = 1
        while groups and groups[-1][0] > mean:
            before, many = groups.pop()
            mean = (before * many + mean * count) / (many + count)
            count += many
        groups.append((mean, count))
    means = [mean for mean, count in groups for _ in range(count)]
    return [mean + start for mean, start in zip(means, starts, strict=True)]
