"""What the model is fed: sizes, ranges, and agreement with a plain computation."""
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrail.core.errors import SettingsError
from vitrail.core.config import Preprocessing
from vitrail.data.settings import Augmentation
from vitrail.data.transforms import evaluation_transform, resized, training_transform


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth picture, so that resampling has one right answer to within a level or two."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return torch.from_numpy(np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (33, 17)])
@pytest.mark.parametrize("image", [(40, 60), (60, 40), (1, 1), (300, 20), (7, 400), (8, 8)])
def test_sizes(size: tuple[int, int], image: tuple[int, int]) -> None:
    p = Preprocessing(size=size)
    for transform in (evaluation_transform(p), training_transform(p, Augmentation(jitter=0.4, vertical_flip=0.5))):
        for _ in range(3):
            out = transform(picture(*image))
            assert out.shape == (3, *size)
            assert out.dtype == torch.float32
            assert out.is_contiguous()
            assert out.isfinite().all()


def test_evaluation_is_resize_crop_normalise() -> None:
    p = Preprocessing(size=(48, 48), crop=0.75)
    image = picture(90, 150)
    plain = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((107, 64), Image.Resampling.BICUBIC)
    middle = plain.crop((30, 8, 78, 56))                    # (107 - 48) / 2 = 29.5, rounded to even
    x = torch.from_numpy(np.array(middle)).permute(2, 0, 1) / 255
    wanted = (x - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)
    assert (evaluation_transform(p)(image) - wanted).abs().max() < 2.5 / 255 / min(p.std)


def test_normalisation_is_exact() -> None:
    p = Preprocessing(size=(4, 4), crop=1.0, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    assert torch.allclose(evaluation_transform(p)(image)[:, 0, 0], torch.tensor([1.0, -1.0, 0.2]), atol=1e-7)


def test_the_centre_crop_holds_its_share_of_the_shorter_side() -> None:
    p = Preprocessing(size=(224, 224), crop=0.875)
    assert resized((375, 500), p) == (256, 341)
    assert resized((500, 375), p) == (341, 256)
    assert resized((100, 100), Preprocessing(size=(96, 192), crop=1.0)) == (192, 192)
    assert resized((3, 1000), Preprocessing(size=(7, 7), crop=1.0)) == (7, 2333)


def test_a_very_long_image_costs_no_more_than_its_middle() -> None:
    p = Preprocessing(size=(64, 64))
    line = picture(2, 200_000)
    cut = line[:, :, 99_992:100_008]
    assert torch.equal(evaluation_transform(p)(line), evaluation_transform(p)(cut))


def test_no_augmentation_is_the_whole_image() -> None:
    p = Preprocessing(size=(32, 32), crop=1.0)
    image = picture(32, 32)
    plain = training_transform(p, Augmentation.none())
    assert torch.equal(plain(image), evaluation_transform(p)(image))


def test_a_mirror_image() -> None:
    p = Preprocessing(size=(16, 16), crop=1.0)
    off = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "randaugment_ops": 0, "erase": 0.0}
    image = picture(16, 16)
    straight = evaluation_transform(p)(image)
    across = training_transform(p, Augmentation(flip=1.0, **off))(image)  # type: ignore[arg-type]
    down = training_transform(p, Augmentation(flip=0.0, vertical_flip=1.0, **off))(image)  # type: ignore[arg-type]
    assert torch.equal(across, straight.flip(-1))
    assert torch.equal(down, straight.flip(-2))


def test_every_part_of_the_augmentation_does_something() -> None:
    p = Preprocessing(size=(32, 32), crop=1.0)
    image = picture(32, 32)
    plain = evaluation_transform(p)(image)
    none = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "randaugment_ops": 0, "erase": 0.0}
    for change in ({"scale": (0.2, 0.3)}, {"flip": 0.5}, {"vertical_flip": 0.5}, {"randaugment_ops": 2}, {"erase": 0.5},
                   {"jitter": 0.5}):
        transform = training_transform(p, Augmentation(**none | change))  # type: ignore[arg-type]
        torch.manual_seed(0)
        outs = [transform(image) for _ in range(24)]
        assert any(not torch.equal(o, plain) for o in outs), change
        assert len({o.numpy().tobytes() for o in outs}) > 1, change


def test_transforms_travel_after_use() -> None:
    transform = training_transform(Preprocessing(size=(16, 16)), Augmentation())
    transform(picture(20, 20))
    again = ForkingPickler.loads(ForkingPickler.dumps(transform))
    outs = []
    for t in (transform, again):
        torch.manual_seed(7)
        outs.append(t(picture(20, 20)))
    assert torch.equal(*outs)


def test_settings_are_checked() -> None:
    for bad in ({"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"flip": 1.1}, {"flip": float("nan")}, {"erase": -0.1},
                {"randaugment_ops": 1.5}, {"randaugment_magnitude": 31}, {"ratio": (1.0,)}, {"jitter": True}):
        with pytest.raises(SettingsError):
            Augmentation(**bad)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="Did you mean 'bilinear'"):
        evaluation_transform(Preprocessing(interpolation="bilinaer"))
    for preprocessing in (Preprocessing(size=(0, 5)), Preprocessing(crop=0.0), Preprocessing(std=(0.0, 1.0, 1.0))):
        with pytest.raises(SettingsError):
            training_transform(preprocessing, Augmentation())
