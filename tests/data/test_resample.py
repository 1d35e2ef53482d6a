"""The fast way through memory of four bytes a pixel gives, bit for bit, what torchvision gives."""
import random

import pytest
import torch
from torch import Tensor

from vitrail.core.config import Preprocessing
from vitrail.data import resample
from vitrail.data.resample import Normalise, middle, packed, resize
from vitrail.data.settings import Augmentation
from vitrail.data.transforms import evaluation_transform, resized, training_transform


def quads(height: int, width: int, seed: int = 0) -> Tensor:
    """A packed picture of noise. Its fourth bytes are noise too."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 4), dtype=torch.uint8, generator=generator).permute(2, 0, 1)[:3]


def planes(image: Tensor) -> Tensor:
    return torch.stack(list(image))


def test_what_is_packed() -> None:
    image = quads(6, 9)
    assert packed(image) == packed(image[:, 2:5, 3:]) == packed(image[:, 5:, 8:]) == resample.NATIVE
    memory = torch.zeros(4, 5, 4, dtype=torch.uint8).permute(2, 0, 1)
    for other in (planes(image), memory[1:], memory[1:, :, :4], memory, image.float(), image.flip(2),
                  image[:, :, ::2], image[:2], torch.zeros(4, 5, 3, dtype=torch.uint8).permute(2, 0, 1),
                  torch.zeros(79, dtype=torch.uint8).as_strided((3, 4, 5), (1, 20, 4))):    # the last byte is not there
        assert not packed(other)


SIZES = [((375, 500), (224, 224)), ((500, 375), (224, 224)), ((256, 300), (224, 224)), ((240, 320), (256, 256)),
         ((20, 31), (48, 32)), ((1, 1), (5, 3)), ((224, 224), (224, 224)), ((3, 90), (16, 16)), ((700, 90), (33, 17))]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize(("image", "size"), SIZES)
def test_resizing_and_the_middle(image: tuple[int, int], size: tuple[int, int], interpolation: str) -> None:
    four = quads(*image)
    three = planes(four)
    assert torch.equal(resize(four, size, interpolation), resize(three, size, interpolation))
    for crop in (0.5, 0.875, 1.0):
        whole = resized(image, Preprocessing(size=size, crop=crop))
        found = middle(four, whole, size, interpolation)
        assert torch.equal(found, middle(three, whole, size, interpolation))
        top, left = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
        plain = resize(three, whole, interpolation)
        assert torch.equal(found, plain[:, top:top + size[0], left:left + size[1]])


@pytest.mark.parametrize("size", [(30, 40), (30, 20), (15, 40), (30, 41), (31, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_cuts_of_a_picture_also_where_a_side_stays_as_long(size: tuple[int, int], interpolation: str) -> None:
    image = quads(40, 60)
    for cut in (image[:, 3:33, 5:45], image[:, :30, :40], image[:, 10:, 20:]):
        found = resize(cut, size, interpolation)
        assert torch.equal(found, resize(planes(cut), size, interpolation))
        assert found.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()
        assert torch.equal(middle(cut, size, (10, 11), interpolation),
                           middle(planes(cut), size, (10, 11), interpolation))


def test_sizes_at_random() -> None:
    """Among them parts as long as a side of the image, which torch would otherwise leave as it is."""
    rng = random.Random(0)
    kept = 0
    for turn in range(300):
        image = rng.randint(1, 60), rng.randint(1, 60)
        p = Preprocessing(size=(rng.randint(1, 60), rng.randint(1, 60)), crop=rng.choice([0.5, 0.875, 0.95, 1.0]))
        four = quads(*image, turn)
        whole = resized(image, p)
        ends = [round((w - s) / 2) + s for w, s in zip(whole, p.size, strict=True)]
        kept += any(end == old != new for end, old, new in zip(ends, image, whole, strict=True))
        mode = rng.choice(["bicubic", "bilinear"])
        assert torch.equal(middle(four, whole, p.size, mode), middle(planes(four), whole, p.size, mode)), (image, p)
    assert kept > 5


def test_normalising() -> None:
    p = Preprocessing()
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    four = torch.cat([ramp, 255 - ramp[:1]]).permute(1, 2, 0).contiguous().permute(2, 0, 1)[:3]
    assert packed(four) == resample.NATIVE
    found = Normalise(p)(four)
    assert found.is_contiguous()
    assert torch.equal(found, Normalise(p)(ramp))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (p.mean, p.std))
    assert torch.allclose(found.double(), (ramp / 255.0 - mean) / std, rtol=0, atol=1e-6)
    assert torch.equal(four, ramp)                          # nothing is done in the picture's own memory


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_transforms_do_not_see_how_a_picture_lies_in_memory(interpolation: str) -> None:
    p = Preprocessing(size=(48, 64), interpolation=interpolation)
    sets = (Augmentation(), Augmentation(randaugment_ops=0, erase=0.0), Augmentation(jitter=0.4, vertical_flip=0.5))
    for transform in (evaluation_transform(p), *(training_transform(p, a) for a in sets)):
        for seed, size in enumerate([(90, 120), (31, 500), (40, 40), (64, 48)]):
            four = quads(*size, seed)
            made = []
            for image in (four, planes(four)):
                torch.manual_seed(seed)
                made.append((transform(image), torch.get_rng_state()))
            assert torch.equal(made[0][0], made[1][0])
            assert torch.equal(made[0][1], made[1][1])


def test_training_draws_as_torchvisions_own_pipeline() -> None:
    from torchvision.transforms import v2
    p, a = Preprocessing(size=(48, 64)), Augmentation(randaugment_ops=0, erase=0.0)
    theirs = v2.Compose([v2.RandomResizedCrop(list(p.size), scale=a.scale, ratio=a.ratio,
                                              interpolation=v2.InterpolationMode.BICUBIC),
                         v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
                         v2.Normalize(list(p.mean), list(p.std))])
    ours = training_transform(p, a)
    for seed in range(20):
        image = quads(90, 120, seed)
        torch.manual_seed(seed)
        wanted, state = theirs(planes(image)), torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.allclose(ours(image), wanted, rtol=0, atol=2e-6)
        assert torch.equal(torch.get_rng_state(), state)
