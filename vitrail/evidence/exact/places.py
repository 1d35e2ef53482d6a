"""Exact claims about places: what a shift does to sines and cosines, and to layers that see a map."""
import math
from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vitrail.attention.attention_augmented import RelativeAttention2d
from vitrail.attention.stand_alone import StandAlone
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import EXACT, apart, bars, draw, least, noisy, seeds, worst
from vitrail.explanation.record import record
from vitrail.nn import Conv, PositionTable, SelfAttention
from vitrail.positions.gated import GatedPositional, as_convolution
from vitrail.positions.predecessors import bits, integers, normalised, sines
from vitrail.positions.sincos_2d import SinCos2d
from vitrail.positions.sinusoidal import shift, sinusoids
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes

Code = Callable[[int, int], Tensor]
CODES: dict[str, Code] = {"integers": integers, "normalised": normalised, "binary": bits, "sines only": sines,
                          "sines and cosines": sinusoids}
WIDTH = 8                               # of the codes: channels, or binary digits


def steps(code: Tensor) -> Tensor:
    """How far each place lies from the next: (N - 1)."""
    return (code[1:] - code[:-1]).norm(dim=-1)


def unmoved(code: Tensor, d: int) -> float:
    """The share of PE(p + d) that the best matrix T leaves unexplained by PE(p) T, by least squares over all p."""
    here, there = code[:-d], code[d:]
    best = torch.linalg.lstsq(here, there, driver="gelsd").solution
    return float((there - here @ best).norm() / there.norm())


def ailments(code: Code) -> dict[str, float]:
    """What is wrong with a code, a number for each way to be wrong."""
    short, long = code(64, WIDTH), code(256, WIDTH)
    around = 2 ** (WIDTH + 1)           # where the slowest of the sines has gone round
    circle = code(around + 1, WIDTH) if code is not bits else None      # 8 digits do not count so far
    return {
        "largest value at 256 places over that at 64": float(long.abs().max() / short.abs().max()),
        "change of a place by a longer text": float((long[:64] - short).abs().max()),
        "longest step over shortest": float(steps(long).max() / steps(long).min()),
        "last place to first, over a step": math.inf if circle is None else
        float((circle[-1] - circle[0]).norm() / steps(circle)[0]),
        "unexplained by the best T(3)": unmoved(long, 3),
    }


def sine_shift(smoke: bool) -> Outcome:
    """One rotation moves all places of sines and cosines; each other code is shown with its own ailment."""
    misses, turns = [], []
    for dim in (2, 8, 64):
        here = sinusoids(512, dim)
        for d in (1, 7) if smoke else (1, 2, 3, 7, 50, 200):
            turn = shift(d, dim)
            misses.append(float((here[:-d] @ turn - here[d:]).abs().max()))
            turns.append(float((turn @ turn.mT - torch.eye(dim, dtype=turn.dtype)).abs().max()))
    found = {name: ailments(code) for name, code in CODES.items()}
    growth, length, step, loop, unexplained = list(next(iter(found.values())))
    ill = {"integers": found["integers"][growth] > 3, "normalised": found["normalised"][length] > 0.1,
           "binary": found["binary"][step] > 1.5,
           "sines only": found["sines only"][loop] < EXACT and found["sines only"][unexplained] > 0.1}
    good = found["sines and cosines"]
    well = (good[growth] <= 1.01 and good[length] == 0 and good[step] < 1 + EXACT and good[loop] > 2
            and good[unexplained] < EXACT)
    exact = worst(misses)
    return Outcome(
        held=exact <= EXACT and worst(turns) <= EXACT and all(ill.values()) and well,
        finding=f"PE(p) T(d) misses PE(p + d) by {exact:.0e} at most, and T(d) is a rotation. Integers grow "
                f"{found['integers'][growth]:.0f} times when the text does 4 times; normalised places move by up to "
                f"{found['normalised'][length]:.2f}; binary steps differ {found['binary'][step]:.1f} times; sines "
                f"alone come back to where they began, and the best T(3) leaves "
                f"{100 * found['sines only'][unexplained]:.0f} % unexplained.",
        numbers={"largest_miss": exact, "largest_departure_from_a_rotation": worst(turns), "ill": ill,
                 "sines_and_cosines_are_well": well,
                 "codes": {n: {k: v for k, v in a.items() if math.isfinite(v)} for n, a in found.items()}},
        figure=_ailing())


def _ailing() -> Figure:
    figure, (grows, paces, moves) = make_axes(12, 3.4, 3)
    colours = dict(zip(CODES, ("#b7791f", INK, LEAF, EMBER, GLASS), strict=True))
    for name, code in CODES.items():
        sizes = [2 ** k for k in range(2, 9)]
        grows.plot(sizes, [float(code(n, WIDTH).abs().max()) for n in sizes], color=colours[name], label=name)
        paces.plot(steps(code(64, WIDTH))[:40], color=colours[name], lw=1)
        d = range(1, 9)
        moves.plot(d, [max(unmoved(code(256, WIDTH), i), 1e-16) for i in d], color=colours[name], marker=".")
    grows.set(xscale="log", yscale="log", xlabel="places", title="largest value")
    paces.set(xlabel="place", yscale="log", title="distance to the next place, of 64")
    moves.set(xlabel="d", yscale="log", title="share of PE(p + d) that no T(d) explains")
    grows.legend(frameon=False)
    return figure


@torch.no_grad()
def conv_is_attention(smoke: bool) -> Outcome:
    """ConViT's heads, each at its own pixel, against the convolution whose kernel is their output projection."""
    localities = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
    found: dict[str, list[float]] = {}
    for side in (2, 3) if smoke else (2, 3, 4, 5):
        found[f"{side} x {side} heads"] = [worst(_unlike_convolution(side, a, 100.0, seed) for seed in seeds(smoke))
                                           for a in localities]
    released = {f"{side} x {side} heads": _unlike_convolution(side, 1.0, 1.0, 0) for side in (2, 3, 4)}
    limit = worst(row[-1] for row in found.values())
    figure, (axes,) = make_axes(7, 3.6)
    for (name, row), colour in zip(found.items(), (INK, GLASS, LEAF, EMBER), strict=False):
        axes.plot(localities, row, marker=".", label=name, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="locality a (ConViT starts at 1)",
             title="difference from a convolution, over its deviation; gates open")
    axes.legend(frameon=False)
    return Outcome(
        held=limit <= EXACT, figure=figure,
        numbers={"by_locality": {"localities": list(localities), **found}, "as_released": released, "limit": EXACT},
        finding=f"With open gates and a locality of {localities[-1]:g} both are equal to within {limit:.0e}, at the "
                "border too, where the convolution repeats the edge. An odd side k gives a k x k convolution; of an "
                "even one, whose heads look between four pixels, (k + 1) x (k + 1). It is a limit: as ConViT is "
                f"released (locality 1, gates at σ(1) = 0.73) the two differ by {least(released.values()):.2g} to "
                f"{worst(released.values()):.2g} deviations.")


def _unlike_convolution(side: int, locality: float, gate: float, seed: int) -> float:
    heads, grid = side * side, (7, 9)
    dim = 3 * heads
    mixer = noisy(GatedPositional(dim, heads))
    as_convolution(mixer, locality)
    mixer.gate.fill_(gate)
    x = draw(1, *grid, dim, seed=seed)
    return apart(mixer(x.flatten(1, 2), grid).view_as(x), _convolution(mixer, side)(x))


def _convolution(mixer: GatedPositional, side: int) -> nn.Module:
    """The convolution whose kernel, at the pixel where a head looks, is what the output does with that head."""
    dim, out = mixer.out.proj.in_features, mixer.out.proj
    size = side + 1 - side % 2
    conv = Conv(dim, dim, size, padding=size // 2, padding_mode="replicate").double()
    each = dim // mixer.heads
    kernel = torch.zeros_like(conv.weight)                                      # (O, I, dy, dx)
    for head in range(mixer.heads):
        row, column = head % side, head // side
        part = slice(head * each, (head + 1) * each)
        near = [(dy, dx) for dy in range(row, row + size + 1 - side) for dx in range(column, column + size + 1 - side)]
        for dy, dx in near:                                                     # one pixel, or four of a quarter each
            kernel[:, part, dy, dx] += out.weight[:, part] / len(near)
    conv.weight.copy_(kernel)
    assert conv.bias is not None
    conv.bias.copy_(out.bias)
    return conv


@torch.no_grad()
def translation(smoke: bool) -> Outcome:
    """A map whose content moves by (2, 1): places that keep their surroundings must keep their answers."""
    grid, dim, heads = (11, 12), 16, 2
    conv, alone = noisy(Conv(dim, dim, 3, padding=1)), noisy(StandAlone(dim, heads, window=5))
    relative = noisy(RelativeAttention2d(dim, heads, grid=grid, keys=8, values=8))
    absolute = {"learned": noisy(PositionTable(grid, dim)), "sines in 2-D": noisy(SinCos2d(dim))}
    plain = noisy(SelfAttention(dim, heads))
    found: dict[str, list[float]] = {}

    def located(position: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: plain(position(x.flatten(1, 2), grid)).unflatten(1, grid)

    for seed in seeds(smoke):
        x = draw(1, *grid, dim, seed=seed)
        rows = {"convolution": _moved(conv, x, 1), "stand-alone attention": _moved(alone, x, 2),
                "attention-augmented: weights": _moved_weights(relative, relative, x),
                "attention-augmented: outputs": _moved(relative, x, 3)}
        for name, position in absolute.items():
            rows[f"absolute positions, {name}: weights"] = _moved_weights(plain, located(position), x)
            rows[f"absolute positions, {name}: outputs"] = _moved(located(position), x, 3)
        for name, value in rows.items():
            found.setdefault(name, []).append(value)
    numbers = {n: least(v) if n.startswith("absolute") else worst(v) for n, v in found.items()}
    blind = worst(numbers[n] for n in ("convolution", "stand-alone attention", "attention-augmented: weights"))
    seeing = least(v for n, v in numbers.items() if n.startswith("absolute"))
    border = numbers["attention-augmented: outputs"]
    return Outcome(
        held=blind <= EXACT and seeing >= 0.01, numbers={"apart": numbers, "limit": EXACT, "seen": 0.01},
        finding=f"Convolution, stand-alone attention and the weights of attention-augmented convolution move with "
                f"the map to within {blind:.0e}; with absolute positions they change by {seeing:.2g} at least. Away "
                "from the border the two local layers' outputs are equal; attention over the whole map sees what "
                f"enters and leaves at the border from everywhere, so its outputs still change, by {border:.2g}.",
        figure=bars(numbers, title="largest difference after the move, over the deviation"))


DOWN, RIGHT = 2, 1                      # the move


def _moved(layer: Callable[[Tensor], Tensor], x: Tensor, reach: int) -> float:
    """How far the outputs lie from the moved outputs, at places whose surroundings within `reach` all moved along."""
    here, there = layer(x), layer(x.roll((DOWN, RIGHT), (1, 2)))
    h, w = x.shape[1:3]
    inner = here[:, reach:h - DOWN - reach, reach:w - RIGHT - reach]
    return apart(there[:, reach + DOWN:h - reach, reach + RIGHT:w - reach], inner)


def _moved_weights(model: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The same of the weights between the places that are there before and after, made to sum up to one among them."""
    def kept(image: Tensor, top: int, left: int) -> Tensor:
        with record(model) as seen:
            call(image)
        h, w = image.shape[1:3]
        maps = seen.layers[0].weights.unflatten(-1, (h, w)).unflatten(-3, (h, w))       # (B, H, h, w, h, w)
        part = (slice(top, top + h - DOWN), slice(left, left + w - RIGHT))
        shared = maps[(..., *part, slice(None), slice(None))][(..., *part)]
        return shared / shared.sum((-2, -1), keepdim=True)
    return apart(kept(x.roll((DOWN, RIGHT), (1, 2)), DOWN, RIGHT), kept(x, 0, 0))


RUNS = {"sine_shift": sine_shift, "conv_is_attention": conv_is_attention, "translation": translation}
