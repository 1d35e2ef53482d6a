from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks.made import PLAIN, reader
from vitrail.core.errors import DataError, ModelError, SettingsError
from vitrail.data.decode import decode
from vitrail.core.task import Options
from vitrail.data.inputs import as_file
from vitrail.tasks.classification.predict import Prediction, predict

NAMES = tuple("abcdefg")
GREY = 60                                                   # the shade of "d"


def told(inputs: object, **settings: object) -> list[Prediction]:
    decoding = settings.pop("decoding", None)
    return list(predict(reader(NAMES), inputs, Options(**settings), decoding=decoding))  # type: ignore[arg-type]


def picture(value: int = GREY, mode: str = "RGB", size: tuple[int, int] = (10, 7)) -> Image.Image:
    return Image.new("L", size, value).convert(mode)


def array(value: int = GREY, shape: tuple[int, ...] = (7, 10, 3)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


@pytest.mark.parametrize("given", [
    picture(), picture(mode="L"), picture(mode="P"), picture(mode="RGBA"), picture(mode="LA"), picture(mode="CMYK"),
    picture(mode="YCbCr"), picture(mode="HSV"), array(), array(shape=(7, 10)), array(shape=(7, 10, 1)),
    np.concatenate([array(), array(255, (7, 10, 1))], 2), array() / np.float32(255),
    torch.from_numpy(array()).movedim(2, 0),
    torch.from_numpy(array()).movedim(2, 0) / 255, (torch.from_numpy(array()).movedim(2, 0) / 255).bfloat16(),
    torch.from_numpy(array(shape=(7, 10))), torch.from_numpy(array(shape=(1, 7, 10))),
    (torch.from_numpy(array()).movedim(2, 0) / 255).requires_grad_(), np.asfortranarray(array()), array()[::-1, ::2],
], ids=lambda x: f"{type(x).__name__}-{x.mode if isinstance(x, Image.Image) else x.dtype}")
def test_every_kind_of_picture_in_memory(given: object) -> None:
    [found] = told(given)
    assert (found.key, found.label, found.error) == ("#0", "d", None)
    assert found.top[0] == ("d", found.score) and len(found.top) == 5 and 0 < found.score <= 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_answers_keep_the_order_of_what_was_given(tmp_path: Path, batch: int) -> None:
    picture(20).save(tmp_path / "b.png")
    given = [array(0), tmp_path / "b.png", torch.stack([torch.full((3, 4, 4), v, dtype=torch.uint8) for v in (40, 60)]),
             str(tmp_path / "b.png"), picture(80)]
    found = told(given, batch=batch)
    assert [p.label for p in found] == list("abcdbe")
    assert [p.key for p in found] == ["#0", str(tmp_path / "b.png"), "#2.0", "#2.1", str(tmp_path / "b.png"), "#4"]
    assert told(iter(given), batch=batch) == found


def test_probabilities_are_the_models(tmp_path: Path) -> None:
    model = reader(NAMES, sharp=0.3)
    [found] = predict(model, array(70), Options(top=7))
    p = model(torch.full((1, 3, 8, 8), 70 / 255)).softmax(-1)[0]
    assert dict(found.top) == pytest.approx(dict(zip(NAMES, p.tolist(), strict=True)), rel=1e-4)
    assert [s for _, s in found.top] == sorted((s for _, s in found.top), reverse=True)
    assert len(next(predict(model, array(70), Options(top=100))).top) == 7


def test_a_folder_stands_for_its_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, shade in (("sub/z.PNG", 0), ("a.jpg", 20), ("sub/b.bmp", 40)):
        picture(shade).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    found = told(tmp_path)
    assert {Path(p.key).name: p.label for p in found} == {"a.jpg": "b", "b.bmp": "c", "z.PNG": "a"}
    assert found == told(str(tmp_path))


def test_unreadable_files_stop_or_are_listed(tmp_path: Path) -> None:
    picture().save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    with pytest.raises(DataError, match="torn.png"):
        told(tmp_path)
    found = told([tmp_path, tmp_path / "god.png", object(), array()], on_error="skip")
    assert [p.label for p in found] == ["d", None, None, None, "d"]
    assert "torn.png" in found[1].error and "Did you mean 'good.png'" in found[2].error and "object" in found[3].error
    assert found[1].score is None and found[1].top == ()


def test_pictures_in_memory_are_read_like_files(tmp_path: Path) -> None:
    """EXIF, transparency and 16 bits: what comes through is what the file gives."""
    gradient = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = Image.merge("RGBA", [*Image.fromarray(np.stack([gradient] * 3, -1)).split(), Image.fromarray(gradient)])
    cases = {"exif.png": (Image.fromarray(gradient), {"exif": turned}), "alpha.png": (alpha, {}),
             "wide.png": (Image.fromarray(gradient.astype(np.uint16) * 257), {}),
             "key.png": (Image.fromarray(gradient).convert("P"), {"transparency": 5}),
             "bits.png": (Image.fromarray(gradient > 100), {}), "cmyk.tiff": (alpha.convert("CMYK"), {})}
    for name, (image, extra) in cases.items():
        image.save(tmp_path / name, **extra)  # type: ignore[arg-type]
        with Image.open(tmp_path / name) as opened:
            assert torch.equal(decode(as_file(opened, "#0")), decode(tmp_path / name)), name


@pytest.mark.parametrize("given", [
    np.zeros((2, 3, 4, 5, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((3, 5, 6), np.uint8), np.zeros(5),
    np.zeros(()), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.int64), np.full((4, 4, 3), 2.0),
    np.full((4, 4, 3), -0.1), np.full((4, 4), np.nan), np.zeros((4, 4), complex), np.array([["x"]]),
    np.array([[None]]), np.zeros((4, 4), bool), torch.zeros(3, 4, 4, device="meta"), torch.zeros(4, 4).to_sparse(),
    torch.zeros(5, 4, 3), torch.zeros(3, 0, 4), torch.zeros(()), b"", b"GIF89a and no more", 3, None, {"a": 1}, [[1]],
    "", "nowhere/x.png", "a\0b", "x" * 5000, Path("/dev/null"),
], ids=lambda x: str(x)[:20].replace("\0", "0"))
def test_what_is_no_picture_is_refused(given: object) -> None:
    with pytest.raises(DataError):
        told([given] if isinstance(given, dict) else given)
    found = told([given], on_error="skip")
    assert all(p.label is None and p.error for p in found) and found


def test_a_picture_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:len(whole) // 2])
    with Image.open(tmp_path / "x.png") as torn, pytest.raises(DataError, match="#0"):
        told(torn)


@pytest.mark.parametrize("settings", [{"batch": 0}, {"top": 0}, {"on_error": "no"}, {"batch": 1.5}])
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        told(array(), **settings)


def test_an_empty_folder_and_an_empty_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        told(tmp_path)
    assert told([]) == []


def test_training_mode_and_gradients_come_back() -> None:
    model = reader(NAMES).train()
    predict(model, array())
    assert model.training and torch.is_grad_enabled()


def test_a_model_that_diverged_is_refused() -> None:
    model = reader(NAMES, preprocessing=PLAIN)
    with torch.no_grad():
        model.head.centres.fill_(float("nan"))
    with pytest.raises(ModelError):
        next(predict(model, array()))
