"""What every system promises, whatever its paper."""
from pathlib import Path

import pytest
import torch

import vitrail
from tests.contracts.small import STRUCTURES, build
from vitrail.core.catalogue import find, variant_of
from vitrail.core.errors import CheckpointError

SIZES = ((96, 96), (64, 160), (97, 71))
# what a classifier's answer cannot depend on, by the form of the paper: RegionViT reads regional tokens, and the last
# block's offsets are between local ones
UNREAD = {"backbones.region_vit": ["backbone.stages.3.rest.0.mix.bias.table"]}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_size_gives_maps_of_the_declared_channels_and_strides(name: str) -> None:
    model = build(name)
    for height, width in SIZES:
        with torch.inference_mode():
            features = model.backbone(noise(2, 3, height, width))
            assert model(noise(2, 3, height, width)).shape == (2, 7)
        assert len(features.maps) == len(model.backbone.channels) == len(model.backbone.strides)
        # a form whose maps are of other sizes (patches that overlap and are not padded) says which
        grids = (model.backbone.grids(height, width) if hasattr(model.backbone, "grids") else
                 [(-(-height // stride), -(-width // stride)) for stride in model.backbone.strides])
        for map_, dim, grid in zip(features.maps, model.backbone.channels, grids, strict=True):
            assert map_.shape == (2, *grid, dim)


@pytest.mark.parametrize("name", STRUCTURES)
def test_rows_of_a_batch_do_not_leak(name: str) -> None:
    model, image = build(name), noise(3, 3, 96, 96)
    with torch.inference_mode():
        together, other = model(image), model(torch.cat([image[:1], noise(2, 3, 96, 96, seed=9)]))
    torch.testing.assert_close(together[:1], other[:1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[1:], other[1:])


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = build(name).train()
    model(noise(2, 3, 96, 96)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == UNREAD.get(find(name).module, [])


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_step_is_repeatable_bit_for_bit(name: str) -> None:
    drops = {"drop_path": 0.3} if "resnet" not in name and "drop_path" in variant_of(name).settings() else {}

    def step() -> list[torch.Tensor]:
        model = build(name, **drops).train()
        torch.manual_seed(5)
        model(noise(4, 3, 96, 96)).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))


@pytest.mark.parametrize("name", STRUCTURES)
def test_bfloat16_answers_like_float32(name: str) -> None:
    model, image = build(name), noise(2, 3, 96, 96)
    with torch.inference_mode():
        exact, low = model(image), model.bfloat16()(image.bfloat16()).float()
    assert torch.isfinite(low).all()
    assert (low - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", STRUCTURES)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    model, image = build(name), noise(1, 3, 64, 64)
    again = vitrail.load_model(vitrail.save_model(model, tmp_path / "model"))
    assert again.config == model.config
    with torch.inference_mode():
        assert torch.equal(model(image), again(image))


@pytest.mark.parametrize("name", STRUCTURES)
def test_weights_of_other_classes_need_a_new_head(name: str, tmp_path: Path) -> None:
    model = build(name, classes=5)
    path = vitrail.save_weights(model, tmp_path / "five.safetensors")
    with pytest.raises(CheckpointError, match="head='fresh'"):
        vitrail.create_model(name, classes=7, weights=path, **model.config.arguments)
    other = vitrail.create_model(name, classes=7, weights=path, head="fresh", **model.config.arguments)
    ours, theirs = model.backbone.state_dict(), other.backbone.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layout_goes_out_to_a_file_and_comes_back(name: str, tmp_path: Path) -> None:
    from vitrail.core.catalogue import module_of
    model = build(name)
    for layout in module_of(name).KEYS:
        path = vitrail.save_weights(model, tmp_path / f"{layout}.safetensors", keys=layout)
        other = vitrail.create_model(name, classes=7, **model.config.arguments)
        report = vitrail.load_weights(other, path, keys=layout)
        assert not report.missing and not report.unexpected
        ours, theirs = model.state_dict(), other.state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", STRUCTURES)
def test_checkpointing_changes_memory_and_nothing_else(name: str) -> None:
    from vitrail.nn import Stack
    model = build(name).train()
    image, grads, after = noise(2, 3, 64, 64), [], []
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    for on in (False, True):
        for part in model.modules():
            if isinstance(part, Stack):
                part.checkpointing = on
        model.zero_grad()
        for k, v in model.named_buffers():
            v.copy_(buffers[k])
        torch.manual_seed(3)
        model(image).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        after.append([b.clone() for b in model.buffers()])
    assert any(isinstance(p, Stack) for p in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*after, strict=True)), "running statistics are updated once a step"


@pytest.mark.parametrize("name", STRUCTURES)
def test_compiles_whole(name: str) -> None:
    model, image = build(name), noise(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
