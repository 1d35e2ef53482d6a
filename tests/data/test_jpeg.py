"""The optional decoder of JPEGs: the same tensors and the same complaints as without it."""
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data import jpeg
from vitrail.data.decode import decode
from vitrail.data.jpeg import plain_jpeg
from vitrail.data.settings import Decoding

pytest.importorskip("simplejpeg", exc_type=ImportError)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8))
    noise = rng.integers(-9, 10, (height, width, 3))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def stored(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    return exif.tobytes()


def by_pillow(data: bytes | Path, how: Decoding | None = None) -> Tensor | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "decoder", lambda: None)
        return outcome(data, how)


def outcome(data: bytes | Path, how: Decoding | None = None) -> Tensor | str:
    try:
        return decode(data, how=how)
    except DataError as e:
        return str(e)


def same(a: Tensor | str, b: Tensor | str) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b


PLAIN: dict[str, dict[str, object]] = {
    "baseline": {}, "progressive": {"progressive": True}, "whole chroma": {"subsampling": 0},
    "half chroma": {"subsampling": 1}, "coarse": {"quality": 3}, "fine": {"quality": 100},
    "restarts": {"restart_marker_blocks": 3}, "own codes": {"optimize": True}, "upright": {"exif": turned(1)},
    "profile": {"icc_profile": PROFILE}, "comment": {"comment": b"made here"}}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("size", [(1, 1), (7, 33), (64, 64), (121, 90)])
def test_plain_files_take_the_fast_way_to_the_same_pixels(kind: str, mode: str, size: tuple[int, int],
                                                          tmp_path: Path) -> None:
    options = {k: v for k, v in PLAIN[kind].items() if mode == "RGB" or k != "subsampling"}
    data = stored(photo(*size, mode=mode), **options)
    found = plain_jpeg(data, Decoding())
    assert found is not None
    assert found.shape == (3, *size)
    assert same(found, by_pillow(data))
    (tmp_path / "a.jpg").write_bytes(data)
    assert same(outcome(tmp_path / "a.jpg"), found)


@pytest.mark.parametrize("draft", [1, 9, 40, 45, 90, 91, 500])
@pytest.mark.parametrize("size", [(90, 121), (360, 361)])
def test_drafts_are_the_same(draft: int, size: tuple[int, int]) -> None:
    data, how = stored(photo(*size)), Decoding(draft=draft)
    found = plain_jpeg(data, how)
    assert found is not None
    assert same(found, by_pillow(data, how))


def odd() -> Iterator[tuple[str, bytes]]:
    whole = stored(photo(40, 60))
    yield "CMYK", stored(photo(40, 60).convert("CMYK"))
    yield "turned", stored(photo(40, 60), exif=turned(6))
    yield "no orientation", stored(photo(40, 60), exif=turned(77))
    yield "colours as they are", stored(photo(40, 60), keep_rgb=True, subsampling=0)
    yield "cut", whole[:len(whole) // 2]
    yield "no end", whole[:-2]
    yield "zeros", whole[:-300] + bytes(298) + b"\xff\xd9"
    yield "a PNG", b"\x89PNG\r\n\x1a\n" + whole
    yield "begins twice", whole[:2] + whole
    yield "a start and no more", b"\xff\xd8"
    out = io.BytesIO()
    photo(40, 60).save(out, "MPO", save_all=True, append_images=[photo(40, 60, 1)])
    yield "several pictures", out.getvalue()


@pytest.mark.parametrize(("name", "data"), list(odd()), ids=[name for name, _ in odd()])
def test_whatever_is_odd_is_left_to_pillow(name: str, data: bytes, tmp_path: Path) -> None:
    assert plain_jpeg(data, Decoding()) is None
    assert same(outcome(data), by_pillow(data))
    (tmp_path / "a.jpg").write_bytes(data)
    assert same(outcome(tmp_path / "a.jpg"), by_pillow(tmp_path / "a.jpg"))


def test_what_is_too_large_or_no_file_is_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(photo(40, 60))
    assert plain_jpeg(data, Decoding(max_pixels=2400)) is not None
    assert plain_jpeg(data, Decoding(max_pixels=2399)) is None
    for path in (tmp_path, tmp_path / "gone.jpg"):
        assert plain_jpeg(path, Decoding()) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2399)
    assert plain_jpeg(data, Decoding()) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert plain_jpeg(data, Decoding()) is not None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_end_the_same_with_and_without() -> None:
    rng = random.Random(0)
    fast = complaints = 0
    for turn in range(500):
        data = bytearray(stored(photo(rng.randint(1, 90), rng.randint(1, 90), turn, rng.choice(["RGB", "RGB", "L"])),
                                progressive=turn % 3 == 0, **rng.choice(list(PLAIN.values())[-3:])))
        for _ in range(rng.randint(1, 3)):                  # the header is short, and more can go wrong in it
            data[rng.randrange(len(data) if turn % 2 else min(len(data), 640))] = rng.randrange(256)
        if turn % 7 == 0:
            at = rng.randrange(len(data))
            del data[at:at + rng.randint(1, 20)]
        found = plain_jpeg(bytes(data), Decoding())
        pillow = by_pillow(bytes(data))
        fast += found is not None
        complaints += isinstance(pillow, str)
        assert same(outcome(bytes(data)), pillow), turn
    assert fast > 50
    assert complaints > 50


def test_without_simplejpeg_or_with_another_library_all_goes_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(photo(40, 60))
    wanted = decode(data)
    jpeg.decoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "simplejpeg", None)
        assert jpeg.decoder() is None
        assert torch.equal(decode(data), wanted)
    jpeg.decoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("vitrail.data.jpeg.features.check", lambda name: False)
        assert jpeg.decoder() is None
    jpeg.decoder.cache_clear()
    assert jpeg.decoder() is not None
