"""`explain` takes images of every kind, lays the map where the model looked, and refuses what it cannot do."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.explanation.tiny import SEEING, noise, pictures, tiny
from vitrail.core.errors import DataError, ExplainError, VitrailError
from vitrail.core.config import Preprocessing
from vitrail.data.transforms import evaluation_transform
from vitrail.explanation import drawing
from vitrail.explanation.api import METHODS, Explanation, attention_grid, explain
from vitrail.explanation.picture import prepare, seen_box


@pytest.mark.parametrize("name", SEEING)
def test_every_method_explains_every_form(name: str) -> None:
    model, image = tiny(name), pictures()[1]
    for method in METHODS:
        found = explain(model, image, method=method)
        assert found.map.dtype == np.float32 and found.map.ndim == 2 and np.isfinite(found.map).all()
        assert found.label == model.config.spec.labels[found.target] and 0 < found.score <= 1
        assert found.heat().shape == image.shape[:2]
    seen = evaluation_transform(model.config.spec.preprocessing)(torch.from_numpy(image).permute(2, 0, 1))
    logits = model(seen[None]).detach()
    assert found.target == int(logits.argmax())
    assert found.score == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)


def test_an_image_of_every_kind_is_the_same_image(tmp_path: Path) -> None:
    model, array = tiny("vit_ti16"), pictures()[1]
    path = tmp_path / "cat.png"
    Image.fromarray(array).save(path)
    kinds = [path, str(path), Image.open(path), array, array / 255.0, torch.from_numpy(array).permute(2, 0, 1),
             torch.from_numpy(array).permute(2, 0, 1)[None], np.concatenate([array, array[..., :1] * 0 + 255], -1)]
    maps = [explain(model, kind, target=1).map for kind in kinds]
    assert all(np.array_equal(m, maps[0]) for m in maps)
    grey = explain(model, array[..., 0])
    assert np.array_equal(grey.map, explain(model, Image.fromarray(array[..., 0])).map)


def test_a_prepared_tensor_is_taken_as_it_is() -> None:
    model = tiny("vit_ti16")
    image = evaluation_transform(model.config.spec.preprocessing)(torch.from_numpy(pictures()[0]).permute(2, 0, 1))
    one, two, whole = (explain(model, x, target=0) for x in (image, image[None], pictures()[0]))
    assert np.array_equal(one.map, two.map) and np.array_equal(one.map, whole.map)
    assert one.box == (0, 0, 64, 64) and one.heat().shape == (64, 64)
    wide = explain(model, noise(3, 48, 90), target=0)
    assert wide.map.shape == (3, 6) and wide.heat().shape == (48, 90)


def test_a_rotated_photograph_is_upright(tmp_path: Path) -> None:
    model, array = tiny("vit_ti16"), pictures()[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(array).copy())
    turned.save(tmp_path / "turned.png", exif=exif)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert np.array_equal(explain(model, image).map, explain(model, array).map)


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (40, 40), (31, 400), (1000, 90)])
@pytest.mark.parametrize("preprocessing", [Preprocessing(size=(64, 64)), Preprocessing(size=(48, 96), crop=1.0)])
def test_the_box_is_what_the_transform_keeps(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Two ramps, down and across, tell by their values at the input's ends where those lie in the picture."""
    top, left, bottom, right = seen_box(size, preprocessing)
    ends = []
    for axis, n in enumerate(size):
        ramp = torch.linspace(0, 255, n).view((n, 1) if axis == 0 else (1, n)).expand(size)
        plain = replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
        seen = prepare(ramp.to(torch.uint8).expand(3, *size), plain).input[0, 0]
        line = (seen[:, seen.shape[1] // 2] if axis == 0 else seen[seen.shape[0] // 2]) * (n - 1) + 0.5
        step = float(line[-5] - line[4]) / (len(line) - 9)          # away from the ends, where the ramp is cut
        ends.append((float(line[4]) - 4.5 * step, float(line[-5]) + 4.5 * step))
    tolerance = max(2.5, max(size) / 64)                            # grey levels are whole numbers
    assert (top, bottom) == pytest.approx(ends[0], abs=tolerance)
    assert (left, right) == pytest.approx(ends[1], abs=tolerance)


def test_heat_lies_over_the_pixels_that_made_it() -> None:
    """A map of one hot token: the heat's peak lies at that token's place in the whole picture."""
    model, array = tiny("vit_ti16"), pictures()[1]                  # 300 x 451
    found = explain(model, array)
    top, left, bottom, right = found.box
    assert 0 < left < right < 451 and bottom - top == pytest.approx(right - left, rel=0.01)
    for y, x in ((0, 0), (1, 2), (3, 3)):
        spot = np.zeros((4, 4), np.float32)
        spot[y, x] = 1
        heat = replace(found, map=spot).heat()
        row, column = np.argwhere(heat == np.nanmax(heat)).mean(0)
        assert y <= 4 * (row - top) / (bottom - top) <= y + 1 and x <= 4 * (column - left) / (right - left) <= x + 1
        assert np.isnan(heat[:, :int(left)]).all() and np.isnan(heat[:, int(right) + 1:]).all()
        assert not np.isnan(heat[int(top) + 1:int(bottom), int(left) + 1:int(right)]).any()


def test_heat_of_padded_patches_is_not_squeezed() -> None:
    """40 x 40 pixels are 3 x 3 patches of 16, of which the last reaches over the edge."""
    found = explain(tiny("vit_ti16"), noise(3, 40, 40))
    spot = np.zeros((3, 3), np.float32)
    spot[1, 1] = 1
    heat = replace(found, map=spot).heat()
    assert np.argwhere(heat == heat.max()).mean(0).tolist() == [23.5, 23.5]


def test_overlays_are_brighter_where_it_is_warmer_and_saved_whole(tmp_path: Path) -> None:
    found = explain(tiny("vit_ti16"), pictures()[0])
    grey = torch.full_like(found.pixels, 128)
    spot = np.zeros((4, 4), np.float32)
    spot[2, 1] = 1
    image = np.asarray(replace(found, map=spot, pixels=grey).overlay()).astype(float).sum(-1)
    top, left, bottom, right = found.box
    y, x = int(top + (bottom - top) * 0.625), int(left + (right - left) * 0.375)
    assert image[y, x] > 1.3 * image[int(top) + 5, int(right) - 5] > 1.3 * image[2, 2]      # warm, cold, unseen
    assert found.overlay().size == (512, 512) and found.overlay(longest=300).size == (300, 300)
    assert found.save(tmp_path / "a.png") == tmp_path / "a.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(found.overlay()))
    found.save(tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), found.map)
    with pytest.raises(VitrailError, match="exists already"):
        found.save(tmp_path / "a.png")
    with pytest.raises(ExplainError, match=r"\.png"):
        found.save(tmp_path / "a.txt")


def test_colours_rise_in_lightness() -> None:
    rgb = drawing.colours(np.linspace(0, 1, 64, dtype=np.float32)) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
    assert drawing.to_unit(np.full((3, 3), 7, np.float32)).max() == 0
    assert drawing.to_unit(np.array([1, 2, np.nan], np.float32))[:2].tolist() == [0, 1]


def test_a_small_picture_is_drawn_large_enough_to_see() -> None:
    found = explain(tiny("vit_ti16"), np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    assert found.overlay().size == (drawing.SMALL, drawing.SMALL) and found.heat().shape == (8, 8)


@pytest.mark.parametrize("name", ["vit_ti16", "swin_t", "xcit_nano_12_p16", "vit_giant14"])
def test_the_sheet_has_a_tile_for_every_layer_and_head(name: str) -> None:
    model = tiny(name)
    sheet = np.asarray(attention_grid(model, pictures()[0], side=32))
    rows = {"vit_ti16": [2, 2, 2], "swin_t": [1, 1, 2, 2], "xcit_nano_12_p16": [2, 2], "vit_giant14": [2, 2, 2]}[name]
    assert sheet.shape == (22 + 36 * len(rows), 34 + 36 * max(rows), 3)
    for i, heads in enumerate(rows):
        for head in range(max(rows)):
            tile = sheet[22 + 36 * i:54 + 36 * i, 34 + 36 * head:66 + 36 * head]
            assert (tile.std() > 5) == (head < heads)
    assert attention_grid(model, pictures()[0], side=32, most=1).size == (34 + 36, 22 + 36)


def test_what_cannot_be_done_is_said() -> None:
    model, image = tiny("vit_ti16"), pictures()[0]
    with pytest.raises(ExplainError, match="Did you mean 'rollout'"):
        explain(model, image, method="rolout")
    for method in ("rollout", "relevance", "attention"):
        with pytest.raises(ExplainError, match="resnet18 has no attention.*gradcam"):
            explain(tiny("resnet18"), image, method=method)
    with pytest.raises(ExplainError, match="no attention.*gradcam"):
        attention_grid(tiny("resnet18"), image)
    with pytest.raises(ExplainError, match="Did you mean 'thing 3'"):
        explain(model, image, target="thing3")
    with pytest.raises(ExplainError, match="5 classes"):
        explain(model, image, target=5)
    with pytest.raises(ExplainError, match="layer= is for"):
        explain(model, image, layer=1)
    with pytest.raises(ExplainError, match="head= is for"):
        explain(model, image, method="gradcam", head=1)
    with pytest.raises(ExplainError, match="model of vitrail"):
        explain(model.backbone, image)
    for wrong in (3, [image, image], np.zeros((4, 4, 7), np.uint8), np.full((4, 4), 3.0), np.zeros((4, 4), np.int32),
                  torch.zeros(2, 3, 8, 8), torch.full((3, 64, 64), torch.nan), "no/such/file.png"):
        with pytest.raises(DataError):
            explain(model, wrong)
    with torch.no_grad():
        model.head.linear.weight.fill_(torch.nan)
    with pytest.raises(ExplainError, match="not finite"):
        explain(model, image, method="rollout")


def test_a_class_is_named_or_numbered() -> None:
    model, image = tiny("vit_ti16"), pictures()[0]
    named, numbered = explain(model, image, target="thing 3"), explain(model, image, target=3)
    assert isinstance(named, Explanation) and named.target == numbered.target == 3 and named.label == "thing 3"
    assert np.array_equal(named.map, numbered.map)
    assert not np.array_equal(named.map, explain(model, image, target=0).map)
    assert vitrail.explain is explain


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    full, image = explain(tiny("swin_t"), pictures()[1], target=1), pictures()[1]
    found = explain(tiny("swin_t").to(dtype), image, target=1)
    assert found.map.dtype == np.float32
    assert np.allclose(found.map, full.map, rtol=0.05 if dtype is torch.bfloat16 else 1e-4)
