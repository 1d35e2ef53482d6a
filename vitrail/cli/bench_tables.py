"""What `vitrail bench` says of what it measured."""
from vitrail.cli.output import print_line, table
from collections.abc import Sequence
from typing import Any



def of_one_process(found: dict[str, Any]) -> None:
    """The rows of `evidence.forward`."""
    rows = found["rows"]
    against, optimised = rows[0].get("against", ""), list(rows[0].get("optimised", ()))
    _machine(found)
    head = ["model", "batch", "size", "ms", "images/s", "products"]
    cells = [[r["model"], r["batch"], r["size"], f"{r['ms']:.2f}", f"{r['images_a_second']:.1f}",
              f"{r['products']:.1f}"] for r in rows]
    if against:
        head += [f"{against} ms", f"{against} / ours", "quartiles"]
        for row, r in zip(cells, rows, strict=True):
            row += _beside(r["against_ms"], r)
    for precision in optimised:
        head += [f"{precision} ms", f"{against or 'plain'} / {precision}", "quartiles"]
        for row, r in zip(cells, rows, strict=True):
            row += _beside(r["optimised"][precision]["ms"], r["optimised"][precision])
    table(head, cells, right=head[1:])
    reached = [r["yardstick_gflops"] for r in rows]
    print_line(f"\nmedians of {rows[0]['rounds']} rounds, everything in turn in one process; products: how many "
               f"1024 x 1024 float32 products the time is worth, which reached {min(reached):.0f} to "
               f"{max(reached):.0f} 1e9 multiply-adds a second"
               + ("; above 1 in the ratio, ours is faster" if against else ""))


def _beside(ms: float, told: dict[str, Any]) -> list[str]:
    return [f"{ms:.2f}", f"{told['ratio']:.3f}", "{:.3f} to {:.3f}".format(*told["ratio_quartiles"])]


def of_processes(found: dict[str, Any]) -> None:
    """The rows of `evidence.peers`."""
    _machine(found)
    rows = found["rows"]
    head = ["model", "batch", "engine", "ms", "images/s", "share", "MB", "apart", "/ ours", "/ optimised"]
    cells = []
    for r in rows:
        for name, side in r["sides"].items():
            over = side["over"]
            optimised = next((v for k, v in over.items() if k.startswith("optimised")), None)
            held = "-" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 1e6:.0f}"
            cells.append([r["model"], r["batch"], name, f"{side['ms']:.2f}", f"{side['images_a_second']:.1f}",
                          f"{side['share'][0]:.2f}", held, f"{side['difference']:.1g}",
                          _spread(over.get("vitrail fp32")), _spread(optimised)])
    table(head, cells, right=head[3:])
    sides = [s for r in rows for s in r["sides"].values()]
    threads, processors = sides[0]["threads"], sides[0]["processors"]
    where = f", bound to processors {', '.join(map(str, processors))}" if processors else ""
    print_line(f"\nmedians of {rows[0]['rounds']} rounds, with quartiles; each engine in a process of its own, by "
               f"turns; threads of each: {threads}{where}\n"
               "share: of the rate of a packed matrix product in the same precision and round, which reached at best "
               f"{_best(rows)} 1e9 multiply-adds a second\n"
               "MB: the peak of what the process held, beyond what it held with its engine and no model\n"
               "apart: how far its output is from our model's as it is, at most, of its deviation\n"
               "/ ours, / optimised: its time over our model's as it is, and as optimised, in the same precision; "
               "above 1 ours is faster")
    for r in rows:
        for name, why in r["left_out"].items():
            print_line(f"{r['model']}, batch {r['batch']}, {name}: not measured, {why}")


def _spread(over: Sequence[float] | None) -> str:
    return "" if over is None else "{:.2f} ({:.2f} to {:.2f})".format(*over)


def _best(rows: Sequence[dict[str, Any]]) -> str:
    """`112 in fp32, 230 in bf16`: the best of all rows."""
    names = dict.fromkeys(p for r in rows for p in r["product_gflops"])
    return ", ".join(f"{max(r['product_gflops'].get(p, 0) for r in rows):.0f} in {p}" for p in names)


def _machine(found: dict[str, Any]) -> None:
    print_line(found["command"])
    print_line(", ".join(f"{k} {v}" for k, v in found["machine"].items()))
