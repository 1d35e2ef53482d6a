"""What the methods say is true: a planted cause is found, Grad-CAM is CAM where it must be, gradients are not zero."""
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.explanation.tiny import SEEING, noise, tiny
from vitrail.backbones.swin import Swin
from vitrail.backbones.vit import ViT
from vitrail.core.errors import ExplainError
from tests.tasks.made import config
from vitrail.explanation.explained import explained
from vitrail.explanation.methods import attention, gradcam, relevance, rollout, run
from vitrail.explanation.tokens import read_by
from vitrail.tasks.classification.model import Classifier


def planted(count: int, seed: int, cell: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of 32 x 32; each of three colours is there or not, as a square in one of 16 places of its own.

    Images, which colours are there (count, 3), and where (count, 3). Each colour is a question by itself, so none can
    be told from the lack of the others.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, 32, 32, generator=generator) * 0.5
    there = torch.rand(count, 3, generator=generator) < 0.5
    place = torch.stack([torch.randperm(16, generator=generator)[:3] for _ in range(count)])
    for i, colour in there.nonzero().tolist():
        y, x = int(place[i, colour]) // 4 * cell, int(place[i, colour]) % 4 * cell
        image[i, colour, y:y + cell, x:x + cell] += 2.0
    return image, there, place


def taught(backbone: nn.Module, steps: int) -> Classifier:
    model = Classifier(backbone, backbone.make_head(3), config("taught", ("r", "g", "b"))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        image, there, _ = planted(48, step)
        loss = nn.functional.binary_cross_entropy_with_logits(model(image), there.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def pointing(found: Tensor, place: Tensor) -> float:
    """How often the map's largest value lies in the planted square; chance is 1/16."""
    h, w = found.shape[1:]
    at = found.flatten(1).argmax(-1)
    return float((at // w * 4 // h * 4 + at % w * 4 // w == place).float().mean())


@pytest.mark.parametrize(("backbone", "steps"), [
    (lambda: ViT(image=32, patch=8, dim=32, depth=2, heads=2), 80),
    (lambda: Swin(patch=4, dim=24, depths=(2, 2), heads=(2, 4), window=4), 120)], ids=["vit", "swin"])
def test_relevance_points_at_the_planted_cause(backbone: Callable[[], nn.Module], steps: int) -> None:
    torch.manual_seed(0)
    model = taught(backbone(), steps)
    image, there, place = planted(150, 10_000)
    assert ((model(image) > 0) == there).float().mean() >= 0.98
    for colour in range(3):
        shown = there[:, colour]
        found = relevance(explained(model), image[shown], colour)
        assert pointing(found.map, place[shown, colour]) >= 0.95


@pytest.mark.parametrize("name", ["swin_t", "resnet18"])
def test_gradcam_is_cam_for_a_linear_head_on_a_mean(name: str) -> None:
    model, image = tiny(name), noise(2, 3, 96, 64)
    features = model.backbone(image)
    last = features.maps[-1]
    for target in (0, 4):
        cam = (last * model.head.linear.weight[target]).sum(-1).relu() / (last.shape[1] * last.shape[2])
        found = gradcam(explained(model), image, target)
        assert torch.allclose(found.map, cam, rtol=1e-4, atol=1e-7) and found.target == target
    assert torch.allclose(found.output, model(image))


@pytest.mark.parametrize("name", SEEING)
def test_gradcam_of_a_token_is_taken_where_its_gradient_is_not_zero(name: str) -> None:
    model, image = tiny(name), noise(1, 3, 64, 64)
    mixers: list[Tensor] = []
    reads_map = read_by(model.head, run(explained(model), image)[0])[1] is not None
    last = {"tnt_s": "backbone.blocks.1.outer.mix.fn", "xcit_nano_12_p16": "backbone.class_blocks.1.mix",
            "convit_ti": "backbone.blocks.1.mix.fn"}.get(name, "backbone.blocks.2.mix.fn")
    found = gradcam(explained(model), image, 1)
    assert found.map.shape[0] == 1 and found.map.abs().sum() + gradcam(explained(model), image, 2).map.abs().sum() > 0
    if reads_map:
        return
    handle = model.get_submodule(last).register_forward_pre_hook(lambda m, args: mixers.append(args[0]))
    logits = model(image)
    handle.remove()
    slope, = torch.autograd.grad(logits[0, 1], mixers)
    h, w = found.map.shape[1:]
    slope, x = slope[0, -h * w:], mixers[0][0, -h * w:]
    assert slope.abs().sum() > 0
    assert torch.allclose(found.map[0].flatten(), (slope.mean(0) * x).sum(-1).relu(), rtol=1e-4, atol=1e-8)


def test_gradcam_at_another_layer() -> None:
    model, image = tiny("vit_ti16"), noise(1, 3, 64, 64)
    at_block = gradcam(explained(model), image, 0, layer="backbone.blocks.1")
    at_mixer = gradcam(explained(model), image, 0, layer=1)
    assert torch.allclose(at_mixer.map, gradcam(explained(model), image, 0, layer="backbone.blocks.1.mix.fn").map)
    assert not torch.allclose(at_block.map, at_mixer.map)
    assert gradcam(explained(model), image, 0, layer=-1).map.equal(gradcam(explained(model), image, 0).map)
    with pytest.raises(ExplainError, match="backbone.blocks.2"):
        gradcam(explained(model), image, layer="backbone.block.2")
    for early in ("backbone.patch_embed", "backbone.patch_embed.proj"):
        with pytest.raises(ExplainError, match="takes images"):
            gradcam(explained(model), image, layer=early)
    with pytest.raises(ExplainError, match="too late to matter"):
        gradcam(explained(model), image, layer="backbone.blocks.2.mlp.fn.act")
    with pytest.raises(ExplainError, match="no map"):
        gradcam(explained(model), image, layer="head")
    with pytest.raises(ExplainError, match="there is no layer 3: 3 layers"):
        gradcam(explained(model), image, layer=3)


@pytest.mark.parametrize("method", [rollout, attention])
def test_without_gradients_every_class_has_the_same_map(method) -> None:  # type: ignore[no-untyped-def]
    model, image = tiny("vit_ti16"), noise(2, 3, 64, 64)
    first, second = method(explained(model), image, 0), method(explained(model), image, 3)
    assert first.map.equal(second.map) and second.target == 3
    assert method(explained(model), image).target.equal(model(image).argmax(-1))


def test_a_new_head_has_nothing_to_explain() -> None:
    model, image = tiny("vit_ti16"), noise(1, 3, 64, 64)
    nn.init.zeros_(model.head.linear.weight)
    for method in (relevance, gradcam):
        with pytest.raises(ExplainError, match="zero everywhere.*trained weights"):
            method(explained(model), image)
    assert rollout(explained(model), image).map.sum() > 0


def test_layers_and_heads_that_are_not_there() -> None:
    model, image = tiny("xcit_nano_12_p16"), noise(1, 3, 64, 64)
    with pytest.raises(ExplainError, match="does not attend between image tokens. These do: backbone.class"):
        attention(explained(model), image, layer="backbone.blocks.0.xca.fn")
    with pytest.raises(ExplainError, match="Did you mean 'backbone.class_blocks.1.mix'"):
        attention(explained(model), image, layer="class_blocks.1.mix")
    with pytest.raises(ExplainError, match="there is no layer 2: 2 layers"):
        attention(explained(model), image, layer=2)
    with pytest.raises(ExplainError, match="has 2 heads"):
        attention(explained(model), image, head=2)
