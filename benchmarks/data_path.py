"""From a JPEG to a model's input, ours and torchvision's v2 pipeline on PIL images, in one process and one thread:
`python benchmarks/data_path.py`.

The JPEGs are 500 x 375 cuts of photographs that scikit-image and scikit-learn bring, of quality 90. Evaluation is
resizing to 256 bicubically, the centre 224 x 224, normalising; training is a random resized crop, a mirror image,
normalising. All draw the same crops. Before anything is timed, no value may be more than one level of 255 away from
torchvision's on tensors, which resizes as we do. Pillow's resizing is another: it rounds in its own way and may take
columns before rows, which shows where an overshoot is cut off in between. The share of values that are more than a
level away from it is told, and then what each part of our evaluation takes. Each round runs all ways over the same
JPEGs, in an order drawn anew; a ratio is the median of the rounds' own ratios, with its quartiles. "simplejpeg" is the
extra `fast`.
"""
import argparse
import io
from collections.abc import Callable
from typing import Any

import skimage.data
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor

from vitrail.core.config import Preprocessing
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.data import jpeg
from vitrail.data.decode import decode
from vitrail.data.resample import Normalise, middle
from vitrail.data.settings import Augmentation
from vitrail.data.transforms import evaluation_transform, resized, training_transform
from vitrail.measure.timing import interleaved

WIDTH, HEIGHT, SIDE = 500, 375, 224
DECODER = jpeg.decoder
EYES = Preprocessing(size=(SIDE, SIDE), crop=0.875)
Path = Callable[[bytes], Tensor]


def jpegs(count: int) -> list[bytes]:
    """So many files, cut from five photographs in turn at places drawn anew."""
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket(), *load_sample_images().images]
    generator, files = torch.Generator().manual_seed(0), []
    for turn in range(count):
        photo = photos[turn % len(photos)]
        y, x = (int(torch.randint(have - want + 1, (), generator=generator))
                for have, want in zip(photo.shape, (HEIGHT, WIDTH), strict=False))
        out = io.BytesIO()
        Image.fromarray(photo[y:y + HEIGHT, x:x + WIDTH]).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
    return files


def of_torchvision(*first: object) -> dict[str, Path]:
    """Its pipelines, on what `first` makes of PIL images."""
    from torchvision.transforms import v2
    bicubic = v2.InterpolationMode.BICUBIC
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(EYES.mean), list(EYES.std))]
    steps = {"evaluation": [v2.Resize(256, interpolation=bicubic), v2.CenterCrop(SIDE)],
             "training": [v2.RandomResizedCrop(SIDE, interpolation=bicubic), v2.RandomHorizontalFlip()]}

    def path(transform: Callable[[Image.Image], Tensor]) -> Path:
        return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB"))
    return {name: path(v2.Compose([*first, *own, *last])) for name, own in steps.items()}


def ours(*, optional: bool) -> dict[str, Path]:
    decoder = DECODER if optional else lambda: None
    transforms = {"evaluation": evaluation_transform(EYES),
                  "training": training_transform(EYES, Augmentation(randaugment_ops=0, erase=0.0))}

    def path(transform: Callable[[Tensor], Tensor]) -> Path:
        def run(data: bytes) -> Tensor:
            jpeg.decoder = decoder
            return transform(decode(data))
        return run
    return {name: path(transform) for name, transform in transforms.items()}


def levels(path: Path, data: bytes, seed: int) -> Tensor:
    """What a path makes of a file, in levels of 0 to 255."""
    torch.manual_seed(seed)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (EYES.mean, EYES.std))
    return (path(data) * std + mean) * 255


def over(path: Path, files: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        torch.manual_seed(0)
        for data in files:
            path(data)
    return run


def parts(files: list[bytes], rounds: int, *, optional: bool) -> Table:
    """Where the time of our evaluation goes."""
    jpeg.decoder = DECODER if optional else lambda: None
    normalise, made = Normalise(EYES), [decode(data) for data in files]
    sizes = [resized(tuple(image.shape[1:]), EYES) for image in made]
    cut = [middle(image, size, (SIDE, SIDE), "bicubic") for image, size in zip(made, sizes, strict=True)]

    def each(step: Callable[..., object], *what: list[Any]) -> Callable[[], None]:
        def run() -> None:
            for given in zip(*what, strict=True):
                step(*given)                                # what it gives is let go at once, as in a pipeline
        return run
    steps = {"decode": each(decode, files),
             "resize": each(lambda image, size: middle(image, size, (SIDE, SIDE), "bicubic"), made, sizes),
             "normalise": each(normalise, cut)}
    times = interleaved(steps, rounds=rounds, device=torch.device("cpu"))
    table = Table("part", "ms an image", title="vitrail, simplejpeg" if optional else "vitrail")
    for name, found in times.items():
        table.add_row(name, f"{found.median / len(files) * 1e3:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import_torchvision()
    from torchvision.transforms import v2
    files = jpegs(args.images)
    ways = {"v2 on PIL": of_torchvision(), "v2 on tensors": of_torchvision(v2.ToImage()),
            "vitrail": ours(optional=False)}
    if jpeg.decoder() is not None:
        ways["vitrail, simplejpeg"] = ours(optional=True)
    table = Table("path", "way", "ms an image", "v2 on PIL / it", "beyond a level of v2 on PIL",
                  title=f"{len(files)} JPEGs, {sum(map(len, files)) / len(files) / 1000:.0f} kB each, one thread, "
                        f"{args.rounds} rounds")
    for path in ("evaluation", "training"):
        calls = {name: way[path] for name, way in ways.items()}
        made = {name: torch.stack([levels(call, data, seed) for seed, data in enumerate(files)])
                for name, call in calls.items()}
        for name in calls:
            apart = float((made[name] - made["v2 on tensors"]).abs().max())
            assert name == "v2 on PIL" or apart < 1.01, f"{name}: {path}: a value is {apart:.2f} levels off"
        times = interleaved({name: over(call, files) for name, call in calls.items()}, rounds=args.rounds,
                            device=torch.device("cpu"))
        for name in calls:
            middle, low, high = times["v2 on PIL"].over(times[name])
            beyond = float(((made[name] - made["v2 on PIL"]).abs() > 1.01).double().mean())
            table.add_row(path, name, f"{times[name].median / len(files) * 1e3:.2f}",
                          f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{beyond:.1e}")
    console = Console(width=120)
    console.print(table)
    if "vitrail, simplejpeg" in ways:
        console.print(parts(files, args.rounds, optional=True))
    console.print(parts(files, args.rounds, optional=False))


if __name__ == "__main__":
    main()
