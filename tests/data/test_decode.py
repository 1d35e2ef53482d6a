"""Every kind of image a user has: known pixels in, known pixels out, or a DataError that says why."""
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.core.errors import DataError, SettingsError
from vitrail.data.decode import SUFFIXES, decode
from vitrail.data.settings import Decoding


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixel(tensor: torch.Tensor, y: int = 0, x: int = 0) -> tuple[int, ...]:
    return tuple(tensor[:, y, x].tolist())


def corner(kind: str, **options: object) -> bytes:
    """3 wide, 2 high, black; the top left pixel red, its right neighbour green."""
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((1, 0), (0, 255, 0))
    return stored(image, kind, **options)


def test_rgb_is_exact_and_laid_out_as_promised() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {}),
                          ("TGA", {}), ("QOI", {}), ("SGI", {}), ("PCX", {}), ("JPEG2000", {"irreversible": False})):
        image = decode(stored(Image.fromarray(pixels), kind, **options))
        assert image.dtype == torch.uint8
        assert image.shape == (3, 5, 7)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels), kind


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """The stored picture is what a camera held in that way would store; upright it is always the same."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255, 0, 0                            # red top left
    upright[:8, 16:] = 0, 0, 255                            # blue top right
    a = upright
    held = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2),
            6: a.transpose(1, 0, 2)[::-1], 7: a.transpose(1, 0, 2)[::-1, ::-1], 8: a.transpose(1, 0, 2)[:, ::-1]}
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = decode(stored(Image.fromarray(np.ascontiguousarray(held[orientation])), kind, exif=exif, **options))
    assert image.shape == (3, 16, 32)
    assert (image.permute(1, 2, 0).int() - torch.from_numpy(upright).int()).abs().max() <= 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_turns_nothing_and_loses_nothing() -> None:
    good = corner("PNG")
    plain = decode(good)
    for block in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"):
        assert torch.equal(decode(corner("PNG", exif=block)), plain)


def test_transparency_is_laid_on_the_background() -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    grey = Image.new("LA", (2, 1), (100, 255))
    grey.putpixel((1, 0), (100, 0))
    for image, opaque in ((rgba, (200, 0, 0)), (grey, (100, 100, 100))):
        assert pixel(decode(stored(image, "PNG"))) == opaque
        assert pixel(decode(stored(image, "PNG")), 0, 1) == (255, 255, 255)
        assert pixel(decode(stored(image, "PNG"), how=Decoding(background=(1, 2, 3))), 0, 1) == (1, 2, 3)
    half = decode(stored(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"))
    assert pixel(half) == (127, 127, 127)


def test_palettes() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for x in range(3):
        image.putpixel((x, 0), x)
    plain = decode(stored(image, "PNG"))
    assert [pixel(plain, 0, x) for x in range(3)] == [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    one = decode(stored(image, "PNG", transparency=1))
    assert [pixel(one, 0, x) for x in range(3)] == [(10, 20, 30), (255, 255, 255), (70, 80, 90)]
    each = decode(stored(image, "PNG", transparency=bytes([0, 255, 128])), how=Decoding(background=(0, 0, 0)))
    assert [pixel(each, 0, x) for x in range(3)] == [(0, 0, 0), (40, 50, 60), (35, 40, 45)]
    gif = decode(stored(image, "GIF", transparency=2), how=Decoding(background=(9, 9, 9)))
    assert [pixel(gif, 0, x) for x in range(3)] == [(10, 20, 30), (40, 50, 60), (9, 9, 9)]


def test_a_transparent_colour_without_an_alpha_channel() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (40, 50, 60))
    read = decode(stored(image, "PNG", transparency=(40, 50, 60)))
    assert [pixel(read, 0, x) for x in range(2)] == [(10, 20, 30), (255, 255, 255)]
    grey = decode(stored(Image.fromarray(np.array([[257, 5140]], np.uint16)), "PNG", transparency=5140))
    assert [pixel(grey, 0, x) for x in range(2)] == [(1, 1, 1), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 40000, 65535]], np.uint16)
    image = decode(stored(Image.fromarray(values), kind))
    assert image[0, 0].tolist() == [0, 1, 156, 255]         # 40000 / 257 = 155.6
    assert torch.equal(image[0], image[2])
    scaled = decode(stored(Image.fromarray(values), kind), how=Decoding(value_range=(0, 40000)))
    assert scaled[0, 0].tolist() == [0, 2, 255, 255]        # 257 / 40000 * 255 = 1.6


def test_big_endian_sixteen_bits_and_white_is_zero() -> None:
    values = np.array([[0, 40000, 65535]], np.uint16)
    big = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    assert decode(stored(big, "TIFF"))[0, 0].tolist() == [0, 156, 255]
    negative = stored(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(negative)).tag_v2[262] == 0
    assert decode(negative)[0, 0].tolist() == [255, 99, 0]


def test_floats_need_a_range() -> None:
    values = np.array([[0.0, 0.25, 2.0, -1.0]], np.float32)
    data = stored(Image.fromarray(values), "TIFF")
    with pytest.raises(DataError, match="32-bit floats from -1 to 2.*value_range"):
        decode(data, name="scan.tif")
    assert decode(data, how=Decoding(value_range=(0.0, 1.0)))[0, 0].tolist() == [0, 64, 255, 0]
    damaged = stored(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(DataError, match="not numbers"):
        decode(damaged, how=Decoding(value_range=(0.0, 1.0)))
    whole = stored(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF")
    with pytest.raises(DataError, match="32-bit integers from 0 to 70000"):
        decode(whole)
    assert decode(whole, how=Decoding(value_range=(0, 70000)))[0, 0].tolist() == [0, 255]


def test_cmyk() -> None:
    """No ink is white, full black is black; a JPEG holds the inks inverted, as Adobe writes them."""
    for ink, colour in (((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 255, 255)),
                        ((0, 255, 0, 0), (255, 0, 255)), ((0, 0, 255, 0), (255, 255, 0))):
        for kind in ("TIFF", "JPEG"):
            data = stored(Image.new("CMYK", (8, 8), ink), kind, **({"quality": 100} if kind == "JPEG" else {}))
            read = pixel(decode(data), 4, 4)
            assert max(abs(a - b) for a, b in zip(read, colour, strict=True)) <= 2, (kind, ink, read)


def test_grey_and_one_bit() -> None:
    assert pixel(decode(stored(Image.new("L", (1, 1), 77), "PNG"))) == (77, 77, 77)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        read = decode(stored(image, kind))
        assert [pixel(read, 0, 0), pixel(read, 0, 1)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert pixel(decode(data)) == (255, 0, 0)


def test_other_colour_spaces() -> None:
    ycc = decode(stored(Image.new("RGB", (4, 4), (200, 30, 90)).convert("YCbCr"), "TIFF"))
    assert max(abs(a - b) for a, b in zip(pixel(ycc), (200, 30, 90), strict=True)) <= 2
    with pytest.raises(DataError, match="LAB"):
        decode(stored(Image.new("LAB", (4, 4)), "TIFF"))


def test_a_single_pixel() -> None:
    assert decode(stored(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).shape == (3, 1, 1)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    cases = {"empty.jpg": b"", "text.jpg": b"this is a letter\n" * 50, "cut.png": corner("PNG")[:40],
             "cut.jpg": stored(Image.effect_noise((64, 64), 90), "JPEG")[:900],
             "zero.png": png_header(0, 5), "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            decode(tmp_path / name)
    with pytest.raises(DataError, match=r"gone\.png: there is no such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(DataError, match="not a regular file"):
        decode(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        decode(tmp_path / "pipe.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG of one line of zeros, whatever its header says."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 8)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [(7100, 7100), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_enormous_image_is_refused_before_it_is_decoded(side: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="million pixels|far too large|does not decode"):
        decode(png_header(*side), name="bomb.png")


def test_the_cap_is_the_users() -> None:
    data = stored(Image.new("L", (20, 10)), "PNG")
    assert decode(data, how=Decoding(max_pixels=200)).shape == (3, 10, 20)
    with pytest.raises(DataError, match=r"20 x 10 .* \(max_pixels\)"):
        decode(data, how=Decoding(max_pixels=199))


def test_draft_reads_a_jpeg_at_a_part_of_its_size() -> None:
    ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1))
    data = stored(Image.fromarray(ramp), "JPEG", quality=95)
    assert decode(data).shape == (3, 480, 640)
    small = decode(data, how=Decoding(draft=200))
    assert small.shape == (3, 240, 320)                     # half, since a quarter would be below 200
    wanted = torch.from_numpy(ramp.reshape(240, 2, 320, 2).mean((1, 3)))
    assert (small[0] - wanted).abs().max() <= 2
    assert decode(data, how=Decoding(draft=500)).shape == (3, 480, 640)


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    (tmp_path / "really_a_png.jpg").write_bytes(corner("PNG"))
    assert pixel(decode(tmp_path / "really_a_png.jpg")) == (255, 0, 0)


def test_pillows_settings_are_left_alone() -> None:
    from PIL import ImageFile
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    decode(corner("PNG"))
    with pytest.raises(DataError):
        decode(corner("PNG")[:50])
    after = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert after == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_endings_are_those_of_formats_that_are_read() -> None:
    Image.init()
    known = Image.registered_extensions()
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".gif", ".bmp", ".avif"} <= SUFFIXES
    assert not {s for s in SUFFIXES if known.get(s) in ("EPS", "PDF", "WMF")}


def test_settings_are_checked() -> None:
    for bad in ({"max_pixels": 0}, {"max_pixels": 1.5}, {"background": (0, 0)}, {"background": (0, 0, 256)},
                {"value_range": (1, 1)}, {"value_range": (2, 1)}, {"value_range": (0, float("nan"))}, {"draft": -1}):
        with pytest.raises(SettingsError):
            Decoding(**bad)  # type: ignore[arg-type]
