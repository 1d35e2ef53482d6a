"""Images of different sizes in one batch: filled up with zeros, and which places are of the images."""
from collections.abc import Sequence

import torch
from torch import Tensor

from vitrail.core.errors import DataError


def pad_images(images: Sequence[Tensor], *, multiple: int = 1, size: tuple[int, int] | None = None
               ) -> tuple[Tensor, Tensor]:
    """Images (C, h, w) of any sizes as one batch (B, C, H, W), with zeros below and to the right, and their sizes.

    sizes: int64 (B, 2), height and width. The batch is as high as the highest image and as wide as the widest, each
    rounded up to a `multiple`; or of `size`, for a batch that other processes have a part of too. Raises DataError
    where there is none, where their channels differ, and where one is larger than `size`.

    >>> batch, sizes = pad_images([torch.ones(3, 4, 6), torch.ones(3, 5, 2)], multiple=4)
    >>> batch.shape, sizes.tolist()
    (torch.Size([2, 3, 8, 8]), [[4, 6], [5, 2]])
    """
    if not images:
        raise DataError("there is no image to make a batch of")
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise DataError(f"images of {' and '.join(map(str, sorted(channels)))} channels do not make one batch")
    sizes = torch.tensor([image.shape[1:] for image in images])                             # (B, 2)
    height, width = size or padded_size(sizes, multiple)
    if (sizes > torch.tensor([height, width])).any():
        raise DataError(f"an image of {' x '.join(map(str, sizes.amax(0).tolist()))} does not fit into {height} x "
                        f"{width}")
    batch = images[0].new_zeros(len(images), *channels, height, width)                      # (B, C, H, W)
    for row, image in zip(batch, images, strict=True):
        row[:, :image.shape[1], :image.shape[2]] = image
    return batch, sizes


def padded_size(sizes: Tensor, multiple: int = 1) -> tuple[int, int]:
    """The height and the width that hold images of all these sizes (B, 2), each a multiple of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in sizes.amax(0).tolist())
    return height, width


def padding_mask(sizes: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Which places of a map belong to no image: bool (B, ⌈H/stride⌉, ⌈W/stride⌉), True where there is padding alone.

    sizes: (B, 2), the images' heights and widths in a batch of `size`. A place that an image reaches into is its own.
    As `key_padding_mask` of torch.nn.MultiheadAttention has it.

    >>> padding_mask(torch.tensor([[4, 6]]), (8, 8), stride=4).tolist()
    [[[False, False], [True, True]]]
    """
    rows, columns = (torch.arange(0, side, stride, device=sizes.device) for side in size)
    below = rows[None, :, None] >= sizes[:, 0, None, None]                                  # (B, h, 1)
    right = columns[None, None, :] >= sizes[:, 1, None, None]                               # (B, 1, w)
    return below | right
