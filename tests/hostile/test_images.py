"""Damaged, lying and oversized image files: each is read, or refused with a DataError that names it."""
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.core.errors import DataError
from vitrail.data.check import checked
from vitrail.data.decode import FORMATS, decode
from vitrail.data.open import open_dataset
from vitrail.data.settings import Decoding
from vitrail.data.sheet import sheet

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr")
SMALL = Decoding(max_pixels=1_000_000)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode: str, size: tuple[int, int] = (23, 17)) -> Image.Image:
    rng = np.random.default_rng(len(mode))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


def originals() -> dict[str, bytes]:
    """One file of every format and mode that Pillow can write here, and the same with metadata and frames."""
    found: dict[str, bytes] = {}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    for kind in FORMATS:
        for mode in MODES:
            try:
                found[f"{kind} {mode}"] = stored(picture(mode), kind)
            except (OSError, ValueError, KeyError):         # not a mode, or not a format, that can be written
                continue
    frames = [picture("RGB") for _ in range(3)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        found[f"{kind} frames"] = stored(frames[0], kind, save_all=True, append_images=frames[1:])
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        found[f"{kind} exif"] = stored(frames[0], kind, exif=exif)
    found["JPEG progressive"] = stored(frames[0], "JPEG", progressive=True)
    for method in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        found[f"TIFF {method}"] = stored(picture("1" if method == "group4" else "RGB"), "TIFF", compression=method)
    return found


ORIGINALS = originals()


def mutants(data: bytes, seed: str, count: int) -> Iterator[bytes]:
    """Truncations, flipped bits, overwritten and moved pieces, extreme numbers in the header."""
    dice = random.Random(seed)
    for _ in range(count):
        raw = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 5))):
            at = dice.randrange(len(raw))
            kind = dice.randrange(7)
            if kind == 0:
                raw = raw[:max(1, at)]
            elif kind == 1:
                raw[at] ^= 1 << dice.randrange(8)
            elif kind == 2:
                raw[at:at + 4] = dice.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            elif kind == 3:
                head = dice.randrange(min(64, len(raw)))
                raw[head] = dice.randrange(256)
            elif kind == 4:
                raw[at:at] = dice.randbytes(dice.randrange(1, 40))
            elif kind == 5:
                del raw[at:at + dice.randrange(1, 40)]
            else:
                raw[at:] = raw[:len(raw) - at]
            if not raw:
                break
        yield bytes(raw)


def is_picture(image: torch.Tensor) -> bool:
    return image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3 and 0 < image[0].numel() <= 10**6


def test_there_is_something_to_damage() -> None:
    assert len(ORIGINALS) >= 60
    assert len({name.split()[0] for name in ORIGINALS}) >= 12


@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_whole_files_are_read_or_need_a_range(name: str) -> None:
    try:
        assert is_picture(decode(ORIGINALS[name], how=SMALL))
    except DataError as e:
        assert name.split()[1] in ("I", "F")                # 32 bits without a known range
        assert "value_range" in str(e)
    ranged = Decoding(value_range=(0, 255))
    size = (17, 23) if name.split()[1] == "exif" else (23, 17)              # on its side
    assert decode(ORIGINALS[name], how=ranged).shape == (3, *size[::-1]) or name.startswith("ICO")


@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_damaged_files(name: str) -> None:
    """About 1600 files in all."""
    for n, raw in enumerate(mutants(ORIGINALS[name], name, 20)):
        try:
            assert is_picture(decode(raw, name=f"m{n}.img", how=SMALL))
        except DataError as e:
            assert str(e).startswith(f"m{n}.img: ")
            assert "\n" not in str(e)


@pytest.mark.parametrize("kind", ["PNG RGB", "JPEG RGB", "GIF P", "TIFF RGB", "WEBP RGB", "BMP RGB", "AVIF RGB"])
def test_cut_anywhere(kind: str) -> None:
    if kind not in ORIGINALS:
        pytest.skip("not written here")
    data = ORIGINALS[kind]
    for end in range(0, len(data), max(1, len(data) // 60)):
        try:
            assert is_picture(decode(data[:end], how=SMALL))
        except DataError:
            continue


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, *, kind: int = 0, before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Small files that ask for much memory."""
    zeros = zlib.compress(bytes(20_000_000), 9)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    huge = {
        "square.png": png(20000, 20000, zeros), "line.png": png(2**31 - 1, 1, zeros),
        "most.png": png(13000, 13000, zeros),
        "text.png": png(1, 1, zlib.compress(b"\0\0"), before=text),
        "profile.png": png(1, 1, zlib.compress(b"\0\0"), before=chunk(b"iCCP", b"p\0\0" + text[20:])),
        "grey.pgm": b"P5 60000 60000 255\n" + bytes(100), "plain.ppm": b"P3 60000 60000 255\n1 2 3",
        "wide.pgm": b"P5 " + b"9" * 5000 + b" 1 255\n",
        "flat.bmp": b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "flat.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
        + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;",
        "runs.tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0) + b"\xff\0\0\0" * 99,
        "flat.qoi": b"qoif" + struct.pack(">II", 60000, 60000) + b"\x03\0" + b"\xfd" * 99,
        "flat.sgi": struct.pack(">HBBHHHH", 474, 1, 1, 3, 65535, 65535, 3) + bytes(500),
    }
    jpeg = bytearray(ORIGINALS["JPEG RGB"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5:at + 9] = struct.pack(">HH", 65500, 65500)
    tiff = Image.new("1", (1, 1))
    return {**huge, "tall.jpg": bytes(jpeg), "strip.tif": stored(tiff, "TIFF", tiffinfo={256: 60000, 257: 60000})}


@pytest.mark.parametrize("name", sorted(bombs()))
def test_bombs_are_refused_or_harmless(name: str) -> None:
    try:
        assert is_picture(decode(bombs()[name], name=name))
    except DataError as e:
        assert name in str(e)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    code = ("import resource, sys, warnings\nfrom pathlib import Path\nwarnings.simplefilter('ignore')\n"
            "from vitrail.core.errors import DataError\nfrom vitrail.data.decode import decode\n"
            "def peak():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak()\n"
            "for path in sorted(Path(sys.argv[1]).iterdir()):\n    try:\n        decode(path)\n"
            "    except DataError:\n        pass\n"
            "    print(path.name, (peak() - before) // 1024)\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    used = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert len(used) == len(bombs())
    assert max(map(int, used.values())) < 200, used         # MB


@pytest.mark.parametrize("ending", [".jpg", ".png", ".gif", ".tif", ".webp", ".bmp"])
def test_the_ending_says_nothing(tmp_path: Path, ending: str) -> None:
    for name, data in ORIGINALS.items():
        if name.endswith(("RGB", "L")) and not name.startswith("TGA"):      # a TGA has no mark of its own
            path = tmp_path / f"{name}{ending}"
            path.write_bytes(data)
            assert torch.equal(decode(path, how=SMALL), decode(data, how=SMALL))


@pytest.mark.parametrize("data", [
    b"\0", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0\x08\0\0\0", b"BM", b"\x89PNG\r\n\x1a\n", b"P6",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n",
    b"PK\x03\x04" + bytes(50),
    b"\x80\x02}q\0.", b"\x7fELF" + bytes(100), b"<html></html>", b"version https://git-lfs.github.com/spec/v1\noid x\n",
    bytes(10_000), b"\xff" * 10_000, "картина".encode("utf-16"), b"#define x_width 9\n"], ids=lambda d: repr(d[:8]))
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^x\.png: "):
        decode(data, name="x.png")


def test_no_program_is_started() -> None:
    """Pillow hands EPS to Ghostscript; nothing a user opens by accident may start a program."""
    started: list[str] = []
    sys.addaudithook(lambda event, args: started.append(event) if event in (
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect") else None)
    eps = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    for data in (eps, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + bytes(20) + eps,
                 struct.pack("<L", 0x9AC6CDD7) + bytes(200)):
        with pytest.raises(DataError):
            decode(data)
    assert started == []


def test_a_folder_of_damaged_files_is_opened_and_nothing_in_it_changes(tmp_path: Path) -> None:
    count = 0
    for label, names in (("a", sorted(ORIGINALS)[::2]), ("b", sorted(ORIGINALS)[1::2])):
        (tmp_path / label).mkdir()
        for name in names:
            suffix = {"JPEG2000": ".jp2", "TIFF": ".tif"}.get(name.split()[0], f".{name.split()[0].lower()}")
            (tmp_path / label / f"{count:03d}{suffix}").write_bytes(ORIGINALS[name])
            for raw in mutants(ORIGINALS[name], f"folder {name}", 2):
                count += 1
                (tmp_path / label / f"{count:03d}{suffix}").write_bytes(raw)
            count += 1
    before = {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*")}
    source = open_dataset(tmp_path, on_error="skip", decoding=SMALL, threads=2)
    assert len(source) + sum(s.error for s in source.skipped) == count
    assert all(is_picture(source.image(i)) for i in range(len(source)))
    report, whole = checked(tmp_path)
    assert report.images == count
    assert not report.ok
    assert whole is not None
    assert sheet(whole).size[0] > 0
    assert {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*")} == before
    assert os.listdir(tmp_path)
