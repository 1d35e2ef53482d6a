"""Every backbone reads images of any number of channels, and says which of its tensors read them."""
from pathlib import Path

import pytest
import torch

import vitrail
from tests.contracts.small import NAMES, STRUCTURES, build, shallow
from vitrail.core.catalogue import entries, module_of, variant_of
from vitrail.core.errors import CheckpointError
from vitrail.nn import Backbone
from vitrail.nn.stem import adapt_input_channels, stem_weights

# one structure of each paper, the smallest
PAPERS = tuple({entries()[name].module: name for name in reversed(STRUCTURES)}.values())
# what reads an image in a way that no other weights alone can make up for: a norm over the pixels of all channels, a
# division by the largest singular value
FIXED = ("backbones.t2t_vit", "backbones.t2t_vit_bodies", "backbones.sagan")
ADAPTABLE = tuple(name for name in PAPERS if entries()[name].module not in FIXED)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_three_channels_are_the_default_of_every_variant() -> None:
    assert {name: variant_of(name).settings()["in_chans"] for name in NAMES} == dict.fromkeys(NAMES, 3)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("in_chans", [1, 4, 5])
def test_an_image_of_any_number_of_channels_is_read(name: str, in_chans: int) -> None:
    model = build(name, in_chans=in_chans)
    image = noise(2, in_chans, 64, 64)
    with torch.inference_mode():
        answer = model(image)
        features = model.backbone(image)
        changed = torch.stack([model(image.index_fill(1, torch.tensor(i), 0.5)) for i in range(in_chans)])
    assert answer.shape == (2, 7) and torch.isfinite(answer).all()
    assert tuple(m.shape[-1] for m in features.maps) == model.backbone.channels
    for other in changed:
        assert not torch.equal(other, answer), "every channel counts"


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_declared_tensors_are_those_that_read_the_image(name: str) -> None:
    with torch.device("meta"):
        three = vitrail.create_model(name, **shallow(name))
        four = vitrail.create_model(name, **shallow(name), in_chans=4)
    assert isinstance(three.backbone, Backbone)
    ours, theirs = three.state_dict(), four.state_dict()
    changed = {key for key in ours if ours[key].shape != theirs[key].shape}
    if entries()[name].module in FIXED:
        assert changed and stem_weights(four) == ()
    else:
        assert changed == set(stem_weights(four))
        assert all(theirs[key].shape[1] == 4 for key in changed)


@pytest.mark.parametrize("name", PAPERS)
def test_every_layout_holds_the_weights_of_four_channels(name: str, tmp_path: Path) -> None:
    model = build(name, in_chans=4)
    for layout in module_of(name).KEYS:
        path = vitrail.save_weights(model, tmp_path / f"{layout}.safetensors", keys=layout)
        other = vitrail.create_model(name, classes=7, **model.config.arguments)
        vitrail.load_weights(other, path, keys=layout)
        ours, theirs = model.state_dict(), other.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ADAPTABLE)
@pytest.mark.parametrize("in_chans", [1, 6])
def test_adapted_weights_answer_alike(name: str, in_chans: int) -> None:
    """A grey image answers as it does in three equal channels; three channels twice answer as they do once."""
    released = build(name).double()
    model = build(name, in_chans=in_chans).double()
    before = {key: value.clone() for key, value in released.state_dict().items()}
    model.load_state_dict(adapt_input_channels(model, released.state_dict()))
    image = noise(2, min(in_chans, 3), 64, 64).double()
    with torch.inference_mode():
        expected = released(image.expand(-1, 3, -1, -1))
        answer = model(image.repeat(1, in_chans // image.shape[1], 1, 1))
    torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in released.state_dict().items()), "in place"


@pytest.mark.parametrize("name", [name for name in PAPERS if entries()[name].module in FIXED])
def test_stems_that_weights_alone_cannot_adapt_are_refused(name: str) -> None:
    model = build(name, in_chans=1)
    with pytest.raises(CheckpointError, match="first layers do not allow it"):
        adapt_input_channels(model, build(name).state_dict())


def test_released_weights_are_adapted_on_request(tmp_path: Path) -> None:
    released = build("vit_ti16")
    path = vitrail.save_weights(released, tmp_path / "released.safetensors")
    with pytest.raises(CheckpointError, match="adapt_channels=True"):
        vitrail.create_model("vit_ti16", classes=7, weights=path, in_chans=1, **released.config.arguments)
    grey = vitrail.create_model("vit_ti16", classes=7, weights=path, in_chans=1, adapt_channels=True,
                                **released.config.arguments)
    image = noise(2, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(grey(image), released(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert grey.config.arguments["in_chans"] == 1
