"""Golden files: what a reference that is no package answered, and the names and shapes that make its weights again.

A file `tests/golden/<name>.safetensors` holds the inputs (`in.*`), the reference's outputs (`out.*`; of a backbone, the
output `out.<height>x<width>` of `picture(height, width)`, which is not stored), tensors of whole numbers that its state
dict holds (`state.*`), and in its metadata the names and shapes of all the others, whose values are
`vitrail.testing.noise`'s, and where the reference came from. So anyone can record it again from the original code.
"""
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitrail.testing.noise import noise


@dataclass(frozen=True)
class Golden:
    """What a reference was given and answered, and its tensors, filled with noise by their own names."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    source: str                     # owner/repository, file, commit


def picture(height: int, width: int, batch: int = 2) -> Tensor:
    """Noise (batch, 3, height, width) of deviation 1, the same everywhere: PCG64 of crc32("image <height>x<width>")."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"image {height}x{width}".encode())))
    return torch.from_numpy(generator.standard_normal((batch, 3, height, width)).astype(np.float32))


def write_golden(path: Path, *, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor],
                 state: Mapping[str, Tensor], source: str) -> None:
    """Records a reference whose `state` was filled by `fill_` before it answered."""
    whole = {k: v for k, v in state.items() if not v.is_floating_point()}
    shapes = {k: list(v.shape) for k, v in state.items() if v.is_floating_point()}
    groups = (("in", inputs), ("out", outputs), ("state", whole))
    tensors = {f"{group}.{k}": v.detach().contiguous() for group, held in groups for k, v in held.items()}
    save_file(tensors, path, metadata={"shapes": json.dumps(shapes), "source": source})


def read_golden(path: Path) -> Golden:
    """A recorded reference."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        held: dict[str, dict[str, Tensor]] = {"in": {}, "out": {}, "state": {}}
        for key in file.keys():                                                     # noqa: SIM118
            group, _, name = key.partition(".")
            held[group][name] = file.get_tensor(key)
    shapes = json.loads(metadata["shapes"])
    made = noise({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    return Golden(held["in"], held["out"], {**made, **held["state"]}, metadata["source"])
