"""ResNet: where it strides, how it is born, what it returns."""
import math

import pytest
import torch
from torch import nn

import vitrail
from vitrail.backbones.resnet import BasicBlock, Bottleneck, ResNet
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import BatchNorm, Conv, DropPath
from vitrail.testing.noise import fill_


def small(bottleneck: bool, **changes: object) -> ResNet:
    torch.manual_seed(0)
    return ResNet(**{"dim": 8, "depths": (1, 2, 2, 1), "bottleneck": bottleneck, **changes}).eval()     # type: ignore[arg-type]


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("height, width", [(64, 64), (64, 96), (61, 35), (1, 1)])
def test_maps_have_the_widths_and_strides_they_are_said_to_have(bottleneck: bool, height: int, width: int) -> None:
    model = small(bottleneck)
    expansion = 4 if bottleneck else 1
    assert model.channels == tuple(w * expansion for w in (8, 16, 32, 64)) and model.strides == (4, 8, 16, 32)
    features = model(torch.randn(2, 3, height, width))
    assert features.prefix is None
    for found, channels, stride in zip(features.maps, model.channels, model.strides, strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_every_map_equals_the_layer_it_stands_for() -> None:
    import_torchvision()
    from torchvision.models import resnet18
    theirs, seen = resnet18().eval(), []
    fill_(theirs)
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model = vitrail.create_model("resnet18")
    vitrail.load_weights(model, theirs.state_dict(), keys="official")
    image = torch.randn(2, 3, 61, 35)
    with torch.no_grad():
        theirs(image)
        for ours, expected in zip(model.backbone(image).maps, seen, strict=True):
            assert torch.allclose(ours.permute(0, 3, 1, 2), expected, rtol=0, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("name, where, blocks", [("resnet18", "conv1", BasicBlock), ("resnet50", "conv2", Bottleneck)])
def test_a_stage_strides_once_in_a_three_by_three_convolution(name: str, where: str, blocks: type[nn.Module]) -> None:
    """v1.5: the bottleneck's stride stands in its second convolution, not in its first."""
    with torch.device("meta"):
        stages = vitrail.create_model(name).backbone.get_submodule("stages")
    for i, stage in enumerate(stages.children()):
        for j, block in enumerate(stage.children()):
            assert isinstance(block, blocks)
            strides = {n: m.stride for n, m in block.named_children() if isinstance(m, Conv)}
            first = i > 0 and j == 0
            assert strides.pop(where) == ((2, 2) if first else (1, 1))
            assert set(strides.values()) <= {(1, 1)}
            assert isinstance(block.shortcut, nn.Identity) == (not first and not (i == j == 0 and name == "resnet50"))
            assert block.get_submodule(where).kernel_size == (3, 3)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_is_born_as_its_shortcut(bottleneck: bool) -> None:
    for stage in small(bottleneck).stages:
        for block in stage.children():
            assert isinstance(block, BasicBlock | Bottleneck)
            x = torch.randn(2, 6, 6, block.conv1.in_channels)
            assert torch.equal(block(x), block.shortcut(x).relu())


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("resnet50", depths=(1, 1, 1, 1))
    for name, part in model.named_modules():
        if isinstance(part, Conv):
            out, _, h, w = part.weight.shape
            assert part.bias is None
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / (out * h * w)), rel=0.05), name
        elif isinstance(part, BatchNorm):
            assert (part.weight == (0 if name.endswith("norm3") else 1)).all() and not part.bias.any(), name
            assert part.eps == 1e-5 and part.momentum == 0.1
        elif isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.01, rel=0.05) and not part.bias.any()


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    drops = [m.p for m in small(True, drop_path=0.5).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.1 * i for i in range(6)])


@pytest.mark.parametrize("bottleneck", [False, True])
def test_gradients_reach_every_parameter_once_the_branches_are_open(bottleneck: bool) -> None:
    model = small(bottleneck).train()
    for part in model.modules():
        if isinstance(part, BatchNorm):
            nn.init.normal_(part.weight)
    out = model(torch.randn(4, 3, 64, 64)).maps[-1]
    (out * torch.randn(out.shape)).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_running_averages_belong_to_training_alone() -> None:
    model, image = small(True), torch.randn(4, 3, 64, 64)
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(image)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    model.train()(image)
    assert not any(torch.equal(v, model.state_dict()[k]) for k, v in before.items() if "norm3" not in k)


@pytest.mark.parametrize("height, width", [(64, 64), (61, 35)])
def test_exports_and_compiles(height: int, width: int) -> None:
    model = vitrail.create_model("resnet50", dim=8, depths=(1, 1, 1, 1), classes=5)
    image = torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = model(image)
        program = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
        assert torch.allclose(program.module()(image), expected, atol=1e-5)
        assert program.module()(image.repeat(3, 1, 1, 1)).shape == (6, 5)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
        assert torch.allclose(compiled(image), expected, atol=1e-5)
