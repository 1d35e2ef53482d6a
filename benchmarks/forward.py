"""Forward passes of vitrail and timm, plain eager mode, in one process: `python benchmarks/forward.py`.

The same as `vitrail bench --against timm` with more rounds: both networks filled with the same seeded noise, their
answers compared first, everything timed in turn beside a matrix product. Any option of `vitrail bench` may follow, such
as `--against timm onnxruntime openvino`, which gives each a process of its own.
"""
import sys

from vitrail.cli.main import main

DEFAULTS = ["--models", "vit_s16,swin_t", "--batch", "1", "8", "--rounds", "30"]

if __name__ == "__main__":
    sys.exit(main(["bench", *DEFAULTS, "--against", "timm", *sys.argv[1:]]))
