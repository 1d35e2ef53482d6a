"""A network whose answers are read off a decoder's queries: explained at the image by the same four methods."""
import functools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import vitrail.core.task
from tests.explanation.test_methods import planted
from vitrail.core.config import ModelConfig, Preprocessing
from vitrail.core.errors import ExplainError
from vitrail.core.task import find_task
from vitrail.explanation.explained import ExplainedModel, explained
from vitrail.explanation.methods import attention, gradcam, relevance, rollout
from vitrail.explanation.record import record
from vitrail.tasks.classification.spec import ClassificationSpec
from vitrail.nn import Block, CrossAttention, Features, LayerNorm, MaskedAttention, Mlp, Residual, SelfAttention

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Presence:
    """Of each query, whether its colour is in the image: (B, 3). No tensor by itself, as many outputs are not."""

    queries: Tensor


class Grid(nn.Module):
    """Patches of 8 pixels, with a learned position each: (B, 3, 32, 32) -> a map (B, 4, 4, C)."""

    strides = (8,)
    channels = (32,)

    def __init__(self, dim: int):
        super().__init__()
        self.proj, self.position = nn.Conv2d(3, dim, 8, 8), nn.Parameter(0.1 * torch.randn(1, 4, 4, dim))

    def forward(self, image: Tensor) -> Features:
        return Features((self.proj(image).permute(0, 2, 3, 1) + self.position,))


class Decoder(nn.Module):
    """The map is encoded by self-attention; three queries look at each other and at it."""

    def __init__(self, dim: int, heads: int = 2):
        super().__init__()
        self.encoder = Block(Residual(SelfAttention(dim, heads), LayerNorm(dim)),
                             Residual(Mlp(dim, dim), LayerNorm(dim)))
        self.queries = nn.Parameter(torch.randn(1, len(COLOURS), dim))
        self.mix = Residual(MaskedAttention(dim, heads, tokens="queries"), LayerNorm(dim))
        self.cross = Residual(CrossAttention(dim, heads, queries="queries", keys="image"), LayerNorm(dim))
        self.answer = nn.Linear(dim, 1)

    def forward(self, features: Features) -> Presence:
        memory = self.encoder(features.maps[-1].flatten(1, 2))                              # (B, M, C)
        x = self.mix(self.queries.expand(len(memory), -1, -1))                              # (B, N, C)
        return Presence(self.answer(self.cross(x, self.cross.fn.keep(memory)))[..., 0])


def score(output: Presence, target: int | Tensor) -> Tensor:
    """A target is the number of a query: one for all, or of each image (B,)."""
    numbers = torch.as_tensor(target).expand(len(output.queries))
    return output.queries.gather(1, numbers[:, None])[:, 0]


def targets(model: nn.Module, output: Presence, wanted: str | None) -> tuple[Tensor, tuple[str, ...], Tensor]:
    if not output.queries.isfinite().all():
        return torch.zeros(0), (), torch.zeros(0)
    numbers = output.queries.argmax(1)
    if wanted:
        numbers = torch.full_like(numbers, COLOURS.index(wanted))
    return numbers, tuple(COLOURS[n] for n in numbers), score(output, numbers).sigmoid()


def reads(output: Presence, target: int | Tensor) -> tuple[str, int]:
    return "queries", int(torch.as_tensor(target).flatten()[0])


@pytest.fixture(autouse=True)
def finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of the network below, known while its tests run."""
    task = replace(find_task("classification"), name="finding", kinds=(), score=score, targets=targets, reads=reads)
    monkeypatch.setitem(vitrail.core.task._REGISTERED, "finding", task)


class Finder(nn.Module):
    config = ModelConfig(model="finder", task="finding", spec=ClassificationSpec(
        labels=COLOURS, preprocessing=Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))))

    def __init__(self, dim: int = 32):
        super().__init__()
        self.backbone, self.head = Grid(dim), Decoder(dim)

    def forward(self, image: Tensor) -> Presence:
        return self.head(self.backbone(image))


@functools.cache
def finder() -> Finder:
    torch.manual_seed(0)
    model = Finder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        image, present, _ = planted(48, step)
        loss = nn.functional.binary_cross_entropy_with_logits(model(image).queries, present.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("method", [relevance, attention, rollout])
def test_a_query_rests_on_the_square_that_it_found(method) -> None:  # type: ignore[no-untyped-def]
    """The largest value lies in the planted square; by chance it does so once in 16.

    The normalisation of equation 9 gives a place as much as all others together that the encoder brought to it, so a
    place may share the largest value with the one that it told its content to.
    """
    model, (image, present, place) = finder(), planted(150, 10_000)
    assert ((model(image).queries > 0) == present).float().mean() >= 0.98
    for colour in range(3):
        shown = present[:, colour]
        attribution = method(explained(model), image[shown], colour)
        assert attribution.map.shape == (int(shown.sum()), 4, 4)
        held = attribution.map.flatten(1)
        at_place = held.gather(1, place[shown, colour][:, None])[:, 0]
        assert (at_place >= 0.99 * held.amax(1)).float().mean() >= 0.9


def test_explain_and_gradcam_take_it_like_any_other() -> None:
    model, (image, present, _) = finder(), planted(20, 20_000)
    row = int(present.all(1).nonzero()[0])
    maps = []
    for method in ("relevance", "rollout", "attention", "gradcam"):
        explanation = vitrail.explain(model, image[row], method=method, target="green")
        assert (explanation.label, explanation.target, explanation.map.shape) == ("green", 1, (4, 4))
        assert explanation.score > 0.5 and explanation.overlay().size == (224, 224)
        maps.append(explanation.map)
    likeliest = int(model(image[row:row + 1]).queries.argmax())
    assert vitrail.explain(model, image[row]).target == likeliest
    assert gradcam(explained(model), image[:2], 2).map.shape == (2, 4, 4)


def test_the_token_that_an_answer_is_read_off_must_be_told_and_be_there() -> None:
    model, (image, *_) = finder(), planted(1, 0)
    known = explained(model)
    with pytest.raises(ExplainError, match="'queries' look at 'queries'.*`reads`"):
        relevance(replace(known, reads=None), image, 0)
    with pytest.raises(ExplainError, match="token 7 of 'queries', which has 3 tokens"):
        rollout(replace(known, reads=lambda output, target: ("queries", 7)), image, 0)
    with pytest.raises(ExplainError, match="from the tokens 'boxes'"):
        rollout(replace(known, reads=lambda output, target: ("boxes", 0)), image, 0)
    with pytest.raises(ExplainError, match="read off one of 'boxes'"):
        attention(replace(known, reads=lambda output, target: ("boxes", 0)), image, 0)
    with pytest.raises(ExplainError, match="no target was found"):
        rollout(replace(known, targets=lambda output: ()), image)
    with pytest.raises(ExplainError, match=r"shape \(B,\), not \(1, 3\)"):
        relevance(replace(known, score=lambda output, target: output.queries), image, 0)
    with pytest.raises(ExplainError, match="model of vitrail"):
        explained(model.backbone)
    assert isinstance(known, ExplainedModel)


def test_recording_a_decoder_changes_no_bit_of_its_answer() -> None:
    model, (image, *_) = finder(), planted(3, 1)
    with torch.no_grad():
        expected = model(image).queries
        with record(model) as recording:
            assert torch.equal(model(image).queries, expected)
    assert [(layer.queries, layer.keys) for layer in recording.layers] == [
        ("image", "image"), ("queries", "queries"), ("queries", "image")]
