"""Freed memory is kept within, given back after, and left to whoever has told malloc what to do."""
import platform

import pytest
import torch

from vitrail.core.allocator import kept_memory


def test_memory_is_kept_within_and_given_back_after() -> None:
    with kept_memory() as kept:
        assert kept == (platform.libc_ver()[0] == "glibc")
        assert torch.ones(1000, 1000).sum() == 1e6
    assert torch.ones(1000, 1000).sum() == 1e6


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "1"), ("GLIBC_TUNABLES", "glibc.malloc.perturb=1")])
def test_what_the_environment_tells_malloc_stands(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with kept_memory() as kept:
        assert not kept
