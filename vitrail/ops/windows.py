"""Folds of a map into groups of tokens and back, and the masks that follow from a size alone."""
import threading
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

_CACHE: dict[Hashable, Tensor] = {}
_LOCK = threading.Lock()
_LIMIT = 256        # sizes x shifts x devices; a run at ever new sizes must not grow without end


def by_size(key: Hashable, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """A constant that depends on sizes alone, made once for each device and dtype of `like`.

    Traced, compiled and exported programs get a fresh one, which they fold into themselves.
    """
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter):
        return make()
    key = (key, like.device, like.dtype)
    if (found := _CACHE.get(key)) is None:
        with torch.inference_mode(False), torch.no_grad():
            found = make()
        with _LOCK:
            if len(_CACHE) >= _LIMIT:
                _CACHE.clear()
            _CACHE[key] = found
    return found


def fold_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B, G, n, C): G windows of n = size x size tokens. H and W are multiples of size."""
    return x.unflatten(1, (-1, size)).unflatten(3, (-1, size)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def unfold_windows(x: Tensor, size: int, rows: int) -> Tensor:
    """(B, G, n, C) -> (B, H, W, C), the inverse of `fold_windows` for a map of `rows` rows of windows."""
    return x.unflatten(1, (rows, -1)).unflatten(3, (size, size)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def fold_strided(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B, G, n, C): G = stride_y · stride_x groups of the tokens that stand a stride apart.

    H and W are multiples of the strides. A group begins at each place of the upper left corner, row by row.
    """
    x = x.unflatten(2, (-1, stride[1])).unflatten(1, (-1, stride[0]))           # (B, h, dy, w, dx, C)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)


def unfold_strided(x: Tensor, stride: tuple[int, int], rows: int) -> Tensor:
    """(B, G, n, C) -> (B, H, W, C), the inverse of `fold_strided` for groups of `rows` rows of tokens."""
    x = x.unflatten(2, (rows, -1)).unflatten(1, stride)                         # (B, dy, dx, h, w, C)
    return x.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)


def pad_to(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) with zeros below and to the right, up to multiples of size."""
    bottom, right = -x.shape[1] % size, -x.shape[2] % size
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def take_windows(x: Tensor, size: int, shift: tuple[int, int]) -> Tensor:
    """`fold_windows` of a map rolled by -shift, in one pass over the memory instead of three.

    For where no gradient flows: that of a gather is a scatter, which is slow. H and W are multiples of size.
    """
    B, H, W, C = x.shape
    places = _of_batch(_window_order(H, W, size, shift, x), B, H * W)
    return x.flatten(0, 2).index_select(0, places).view(B, -1, size * size, C)


def put_windows(x: Tensor, size: int, shift: tuple[int, int], H: int, W: int) -> Tensor:
    """(B, G, n, C) -> (B, H, W, C), the inverse of `take_windows`; of a padded map the upper left H x W places."""
    B, G, n, C = x.shape
    rows, columns = -(-H // size) * size, -(-W // size) * size

    def make() -> Tensor:
        return _window_order(rows, columns, size, shift, x).argsort().view(rows, columns)[:H, :W].flatten()
    places = by_size(("window_places", H, W, size, shift), x, make)
    return x.flatten(0, 2).index_select(0, _of_batch(places, B, G * n)).view(B, H, W, C)


def _window_order(H: int, W: int, size: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """(H·W): the places of a map in the order in which its shifted windows hold them."""
    def make() -> Tensor:
        places = torch.arange(H * W, device=like.device).view(1, H, W, 1)
        return fold_windows(places.roll((-shift[0], -shift[1]), (1, 2)), size).flatten()
    return by_size(("window_order", H, W, size, shift), like, make)


def _of_batch(rows: Tensor, B: int, step: int) -> Tensor:
    """Indices into one map as indices into B maps that lie behind each other."""
    return rows if B == 1 else (torch.arange(0, B * step, step, device=rows.device)[:, None] + rows).flatten()


def shift_mask(H: int, W: int, size: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """(G, n, n): 0 where two tokens of a cyclically shifted window were neighbours, -inf where they were not.

    Swin, section 3.2: the last windows of a shifted map hold tokens from opposite edges.
    """
    def make() -> Tensor:
        def band(n: int, d: int) -> Tensor:
            at = torch.arange(n, device=like.device)
            return (at >= n - size).int() + (at >= n - d).int() * (d > 0)
        zone = band(H, shift[0])[:, None] * 3 + band(W, shift[1])               # (H, W)
        zone = fold_windows(zone[None, :, :, None], size)[0, :, :, 0]           # (G, n)
        apart = zone[:, :, None] != zone[:, None, :]                            # (G, n, n)
        return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, float("-inf"))
    return by_size(("shift_mask", H, W, size, shift), like, make)


def window_offsets(size: int) -> Tensor:
    """(n, n): which entry of a (2 size - 1)² table tells query from key, row offset first (Swin, equation 4)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    at = torch.stack([y.flatten(), x.flatten()])
    d = at[:, :, None] - at[:, None, :] + size - 1
    return d[0] * (2 * size - 1) + d[1]
