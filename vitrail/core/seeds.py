"""Random streams as pure functions of what they are for."""
import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**63 from whole numbers and names: derive_seed(seed, "augment", epoch, index).

    The same in every process and on every machine, and unrelated for neighbouring parts.
    """
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
