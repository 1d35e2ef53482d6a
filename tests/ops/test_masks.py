"""Batches of images of different sizes: what is filled up, and the masks that say so."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.errors import DataError
from vitrail.ops.masks import pad_images, padding_mask

SIZES = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4)


@given(SIZES, st.sampled_from([1, 3, 8]))
def test_every_image_is_in_its_corner_and_the_rest_is_zero(sizes: list[tuple[int, int]], multiple: int) -> None:
    images = [torch.rand(3, h, w) + 1 for h, w in sizes]
    batch, told = pad_images(images, multiple=multiple)
    assert told.tolist() == [list(size) for size in sizes]
    for side in (0, 1):
        filled = batch.shape[2 + side] - max(size[side] for size in sizes)
        assert batch.shape[2 + side] % multiple == 0 and 0 <= filled < multiple
    mask = padding_mask(told, tuple(batch.shape[2:]))
    for row, image, hidden in zip(batch, images, mask, strict=True):
        assert torch.equal(row[:, :image.shape[1], :image.shape[2]], image)
        assert torch.equal(row.abs().sum(0) == 0, hidden)


@given(SIZES, st.sampled_from([1, 2, 5]))
def test_a_place_of_a_coarse_map_is_padding_where_all_its_pixels_are(sizes: list[tuple[int, int]], stride: int) -> None:
    batch, told = pad_images([torch.ones(1, h, w) for h, w in sizes])
    seen = torch.nn.functional.max_pool2d(batch, stride, stride, ceil_mode=True)[:, 0]
    assert torch.equal(padding_mask(told, tuple(batch.shape[2:]), stride), seen == 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        pad_images([])
    with pytest.raises(DataError, match="1 and 3 channels"):
        pad_images([torch.ones(1, 2, 2), torch.ones(3, 2, 2)])
    with pytest.raises(DataError, match="5 x 2 does not fit into 4 x 4"):
        pad_images([torch.ones(1, 5, 2)], size=(4, 4))
    assert pad_images([torch.ones(1, 2, 2)], size=(4, 6))[0].shape == (1, 1, 4, 6)
