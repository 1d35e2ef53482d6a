"""Two versions of vitrail beside each other: start-up of commands, the data path, a training step, `optimize`.

`python benchmarks/versions.py BEFORE AFTER [--rounds 5]`, each the folder of a checkout. Every measurement runs in a
process of its own, the two versions in turns; printed are medians and the median of the rounds' own ratios, with
quartiles. It prints the processor, since with it every figure changes.
"""
import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("--help", "list", "train --help", "evaluate --help", "explain --help", "tree swin_t", "evaluate nowhere x")
NETS = ("vit_ti16", "deit_ti16", "swin_t", "xcit_nano_12_p16", "mobilevit_xxs", "resnet18", "pvt_v2_b0",
        "cait_xxs24_224", "convit_ti", "twins_svt_s")

STEP = """
import time, torch, torch.nn.functional as F, vitrail
torch.set_num_threads(1); torch.manual_seed(0)
model = vitrail.create_model("deit_ti16", classes=10).train()
adam = torch.optim.AdamW(model.parameters(), fused=True)
images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)
def step():
    adam.zero_grad(); F.cross_entropy(model(images), labels).backward(); adam.step()
step(); times = []
for _ in range(4):
    start = time.perf_counter(); step(); times.append(time.perf_counter() - start)
print(min(times))
"""

LOOP = """
import tempfile, time, os, contextlib, io
os.environ["OMP_NUM_THREADS"] = "1"
from vitrail.cli.main import main
import vitrail.cli.main
change = "{change}"
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \\
        contextlib.redirect_stderr(io.StringIO()):
    words = ["train", "--model", "vit_ti16", change, "depth=2", "dim=64", "heads=2", "patch=4", "--size", "32",
             "--epochs", "3", "--threads", "1", "--evaluate-every", "3", "--finish", "last"]
    import torch, vitrail.models
    start = time.perf_counter()
    code = main([*words, "--out", folder + "/run"])
    seconds = time.perf_counter() - start
assert code == 0
print(seconds)
"""

OPTIMIZE = """
import time, torch, vitrail
torch.set_num_threads(1); torch.manual_seed(0)
model = vitrail.create_model("{net}")
images = torch.randn(2, 3, 224, 224)
fast = vitrail.optimize(model, images)
for _ in range(2): fast(images)
times = []
for _ in range(6):
    start = time.perf_counter(); fast(images); times.append(time.perf_counter() - start)
print(min(times))
"""


def seconds(root: Path, script: str) -> float:
    """What the script prints, run on a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{root}: {ran.stderr[-2000:]}")
    return float(ran.stdout.split()[-1])


def started(root: Path, words: str) -> float:
    """Seconds that a command takes, from start to end."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vitrail", *words.split()], cwd=root, env=environment, capture_output=True)
    return time.perf_counter() - start


def line(name: str, before: list[float], after: list[float]) -> None:
    ratios = sorted(two / one for one, two in zip(before, after, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    print(f"| {name} | {1e3 * statistics.median(before):.1f} | {1e3 * statistics.median(after):.1f} | "
          f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |", flush=True)


def processor() -> str:
    found = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")] \
        if Path("/proc/cpuinfo").exists() else []
    return found[0].partition(":")[2].strip() if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    roots = (chosen.before.resolve(), chosen.after.resolve())
    changes = ["--change" if (root / "vitrail" / "train").is_dir() else "--set" for root in roots]
    print(f"{processor()}, one thread, {chosen.rounds} rounds\n")
    print("| | before, ms | after, ms | ratio | quartiles |\n|---|---|---|---|---|")
    for words in COMMANDS:
        both = [[started(root, words) for root in roots] for _ in range(chosen.rounds)]
        line(f"`vitrail {words}`", *map(list, zip(*both, strict=True)))
    both = [[seconds(root, STEP) for root in roots] for _ in range(chosen.rounds)]
    line("training step of deit_ti16, batch 8", *map(list, zip(*both, strict=True)))
    both = [[seconds(root, LOOP.replace("{change}", change)) for root, change in zip(roots, changes, strict=True)]
            for _ in range(chosen.rounds)]
    line("`train` on digits, three epochs, evaluated and reported", *map(list, zip(*both, strict=True)))
    for net in NETS:
        both = [[seconds(root, OPTIMIZE.replace("{net}", net)) for root in roots] for _ in range(chosen.rounds)]
        line(f"`optimize`d {net}, batch 2", *map(list, zip(*both, strict=True)))


if __name__ == "__main__":
    main()
