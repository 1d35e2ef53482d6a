"""A picture of answers: digits that a small ViT did not learn from, and what its answers rest on.

`python tools/answers.py` writes docs/answers.png. It trains the network by the recipe of `vitrail train` (three minutes
on a core; a finished run in runs/answers is taken as it is), and explains one held-out digit of each class by
`vitrail.explain`: its answer, and the runner-up, the answer that it gives the second-highest probability.
"""
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import vitrail  # noqa: E402
from vitrail.core.task import find_task  # noqa: E402
from vitrail.explanation.api import explain_image  # noqa: E402
from vitrail.recipes.train import train  # noqa: E402

FILE = Path(__file__).parents[1] / "docs" / "answers.png"
TASK = find_task("classification")
SETTINGS = TASK.settings.of(dict(
    data="digits", out="runs/answers", model="vit_ti16", set=("patch=2", "dim=64", "depth=4", "heads=4"), size=16,
    epochs=25, batch=32, lr=2e-3, crop=1.0, crop_scale=0.7, flip=0.0, randaugment=0, erase=0.0, threads=1,
    finish="last", evaluate_every=1_000_000))


def main() -> None:
    held_out = TASK.splits(SETTINGS).val
    model = vitrail.load_model(train(TASK, SETTINGS))
    first = {held_out.targets(i)["class"]: i for i in reversed(range(len(held_out)))}
    figure, axes = plt.subplots(3, 10, figsize=(12.5, 4.1), layout="constrained")
    for label, index in sorted(first.items()):
        pixels = held_out.image(index)                             # (3, H, W)
        answer = explain_image(model, pixels)
        image = torch.nn.functional.interpolate(pixels[None].float(), (256, 256), mode="nearest")
        axes[0, label].imshow(image[0].byte().permute(1, 2, 0).numpy())
        axes[0, label].set_title(f"{answer.label}, {100 * answer.score:.0f} %", fontsize=11)
        rivals = [(explained.score, name) for name in model.config.spec.labels if name != answer.label
                  for explained in [explain_image(model, pixels, target=name)]]
        rival = explain_image(model, pixels, target=max(rivals)[1])
        for row, explained in ((1, answer), (2, rival)):
            axes[row, label].imshow(np.asarray(explained.overlay()))
        axes[2, label].set_xlabel(f"why {rival.label}?", fontsize=10)
        axes[1, label].set_xlabel(f"why {answer.label}?", fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.savefig(FILE, dpi=110)
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
