"""Hashes that send vectors of like direction to the same bucket."""
import torch
from torch import Tensor


def digits(bits: int, columns: int) -> tuple[int, ...]:
    """How 2**bits buckets are numbered by as few hashes as need no more than `columns` random directions: bits of each.

    A hash of b bits takes 2**(b - 1) directions. Raises ValueError where even hashes of one bit are too many.
    """
    for count in range(1, bits + 1):
        sizes = tuple(bits * (i + 1) // count - bits * i // count for i in range(count))
        if sum(1 << size - 1 for size in sizes) <= columns:
            return sizes
    raise ValueError(f"{columns} directions cannot tell 2**{bits} buckets apart")


def angular_hash(x: Tensor, directions: Tensor, bits: int) -> Tensor:
    """The buckets of vectors in each of R rounds: (B, H, N, D) and (H, D, R, K) -> (B, H, R, N), int32 below 2**bits.

    h(x) = argmax [xR; -xR], the nearest of 2K random directions (Andoni et al., arXiv:1509.02897). Where the buckets
    are more than that, several such hashes give the digits of a bucket's number, the lowest first (`digits`), so that
    a vector's hash costs no more among many buckets. It has no gradient.
    """
    sizes = digits(bits, directions.shape[-1])
    used = directions[..., :sum(1 << size - 1 for size in sizes)]
    near = (x.detach() @ used.flatten(2)).unflatten(-1, used.shape[2:])         # (B, H, N, R, K)
    bucket, unit = torch.zeros_like(near[..., 0], dtype=torch.int32), 1
    for part, size in zip(near.split([1 << size - 1 for size in sizes], -1), sizes, strict=True):
        at = part.abs().argmax(-1, keepdim=True)                                # (B, H, N, R, 1)
        away = part.gather(-1, at) < 0                                          # nearest to minus a direction
        bucket = bucket + unit * (at + away * part.shape[-1])[..., 0].int()     # (B, H, N, R)
        unit <<= size
    return bucket.mT
