"""Small folders of pictures that a tiny model learns in two epochs, and the settings to do it."""
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.tasks.classification.settings import ClassificationSettings

TINY: dict[str, Any] = dict(model="vit_ti16", set=("depth=1", "dim=32", "heads=2", "patch=8"), size=16, batch=8,
                            epochs=2, lr=3e-3, randaugment=0, erase=0.0, crop_scale=0.9, crop=1.0, threads=1)
NAMES = ("dark", "grey", "light")


def draw(folder: Path, *, names: tuple[str, ...] = NAMES, count: int = 12, seed: int = 0) -> Path:
    """A class a shade, from dark to light, of noise about it."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            low = 220 * k // len(names)
            Image.fromarray(rng.integers(low, low + 60, (18, 24, 3), dtype=np.uint8)).save(folder / name / f"{n}.png")
    return folder


def tiny(data: Path, out: Path, **changes: Any) -> ClassificationSettings:
    return ClassificationSettings.of({**TINY, "data": str(data), "out": str(out), **changes})
