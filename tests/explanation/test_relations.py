"""Matrices between token sets: the equations of Chefer et al. (ICCV 2021) written out again, and what is exact."""
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.explanation.test_tokens import dense
from tests.explanation.tiny import noise, tiny
from tests.foundations.small import build, inputs
from vitrail.core.errors import ExplainError
from vitrail.explanation.explained import ExplainedModel, explained
from vitrail.explanation.methods import relevance, rollout, weighted
from vitrail.explanation.record import Layer, record
from vitrail.explanation.relations import (Matrices, join_steps, normalised_self, relate, relevance_rule, rollout_rule,
                                           whole)
from vitrail.explanation.tokens import attended, sites
from vitrail.nn import Reduced, Windows, squares

Array = NDArray[np.float64]


def layer(queries: str, keys: str, attention: Tensor, *, call: int = 1, stepwise: bool = False) -> tuple[Layer, Tensor]:
    """A layer that showed attention (B, N, M), as a path holds it."""
    return Layer(name=f"{queries}.{keys}", mixer=f"{queries}.{keys}", call=call, step=0, stepwise=stepwise,
                 queries=queries, keys=keys, weights=attention[:, None], groups=None, grid=None, shown=False,
                 probe=False), attention


def draw(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bar(R: Array) -> Array:
    """Equations 8 and 9."""
    gained = R - np.eye(len(R))
    for row in gained:
        if row.sum() > 0:
            row /= row.sum()
    return gained + np.eye(len(R))


def translator_by_hand(path: list[tuple[Layer, Tensor]]) -> dict[str, Array]:
    """Equations 6, 7 and 10 for an encoder and a decoder, one text. Nothing flows from the target to the source."""
    path = join_steps(path)
    S = next(a.shape[-1] for site, a in path if site.keys == "source")
    T = next(a.shape[-2] for site, a in path if site.queries == "target")
    ss, tt, ts = np.eye(S), np.eye(T), np.zeros((T, S))
    for site, attention in path:
        A = attention[0].double().numpy()
        if site.queries == "source":
            ss = ss + A @ ss
        elif site.keys == "target":
            tt, ts = tt + A @ tt, ts + A @ ts
        else:
            ts = ts + bar(tt).T @ A @ bar(ss)
    return {"source": ts, "target": tt}


def path_of(network: Any, texts: tuple[Tensor, ...], score: Callable[[Tensor], Tensor]) -> list[tuple[Layer, Tensor]]:
    with record(network, gradients=True) as recording:
        value = score(network(*texts))
    layers = attended(recording.layers)
    return weighted(layers, torch.autograd.grad(value, [site.weights for site in layers], allow_unused=False))


@pytest.mark.parametrize("kind", ["post-norm", "pre-norm", "recurrent"])
def test_an_encoder_decoder_is_the_equations_of_the_paper(kind: str) -> None:
    network, (source, target) = build(kind), inputs(kind)
    for row in (0, 1):
        texts = source[row:row + 1], target[row:row + 1]
        held = []
        for word in range(3, 9):
            path = path_of(network, texts, lambda output, word=word: output[0, -1, word])
            expected, matrices = translator_by_hand(path), relate(path, relevance_rule)
            for name, matrix in expected.items():
                torch.testing.assert_close(matrices["target", name][0], torch.from_numpy(matrix), rtol=1e-9, atol=1e-15)
            assert set(matrices) == {("target", "target"), ("source", "source"), ("target", "source")}
            held.append(matrices["target", "source"][0])
        assert torch.stack(held)[:, -1].any()
        assert not torch.stack(held)[:, :, source[row] == 0].any(), "padding holds nothing, exactly"


def test_two_sets_that_look_at_each_other_are_the_equations_of_the_paper() -> None:
    """Self-attention of each, then each at the other, as in a network of images and text: 6, 7, 10 and 11."""
    a, b = draw(1, 4, 4, seed=0), draw(1, 3, 3, seed=1)
    ab, ba, again = draw(1, 4, 3, seed=2), draw(1, 3, 4, seed=3), draw(1, 4, 4, seed=4)
    matrices = relate([layer("a", "a", a), layer("b", "b", b, call=2), layer("a", "b", ab, call=3),
                       layer("b", "a", ba, call=4), layer("a", "a", again, call=5)], relevance_rule)
    A, B, AB, BA, AGAIN = (x[0].numpy() for x in (a, b, ab, ba, again))
    aa, bb, of_ab, of_ba = np.eye(4) + A, np.eye(3) + B, np.zeros((4, 3)), np.zeros((3, 4))
    of_ab, aa = of_ab + bar(aa).T @ AB @ bar(bb), aa + AB @ of_ba
    of_ba, bb = of_ba + bar(bb).T @ BA @ bar(aa), bb + BA @ of_ab
    aa, of_ab = aa + AGAIN @ aa, of_ab + AGAIN @ of_ab
    for pair, expected in {("a", "a"): aa, ("b", "b"): bb, ("a", "b"): of_ab, ("b", "a"): of_ba}.items():
        np.testing.assert_allclose(matrices[pair][0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("rule", [relevance_rule, rollout_rule])
def test_identity_cross_attention_gives_the_identity(rule: Callable[[Matrices, str, str, Tensor], None]) -> None:
    nothing, config = torch.zeros(1, 5, 5), torch.eye(5)[None]
    path = [layer("source", "source", nothing), layer("target", "target", nothing, call=2),
            layer("target", "source", config, call=3)]
    held = relate(path, rule)["target", "source"][0]
    torch.testing.assert_close(held, torch.eye(5).double() * (0.5 if rule is rollout_rule else 1), rtol=0, atol=0)


def test_normalised_rows_sum_to_two_and_rows_that_gained_nothing_to_one() -> None:
    gained = draw(2, 5, 5, seed=0)
    gained[0, 3] = 0
    total = normalised_self(torch.eye(5) + gained).sum(-1)
    expected = torch.full((2, 5), 2.0).double()
    expected[0, 3] = 1
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    tiny_gain = normalised_self((torch.eye(5) + 1e-9 * gained).double()).sum(-1)
    torch.testing.assert_close(tiny_gain, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["post-norm", "pre-norm", "recurrent"])
def test_rollout_shares_out_the_whole_of_each_token_over_all_sets(kind: str) -> None:
    network, texts = build(kind), inputs(kind)
    with torch.no_grad(), record(network) as recording:
        network(*texts)
    matrices = relate([(site, site.weights.mean(-3)) for site in attended(recording.layers)], rollout_rule)
    total = matrices["target", "target"].sum(-1) + matrices["target", "source"].sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    if kind == "recurrent":                         # one look: half itself, half its alignment
        weights = torch.cat([site.weights for site in recording.layers], 2)[:, 0]
        torch.testing.assert_close(matrices["target", "source"], weights / 2)


@pytest.mark.parametrize("method", [relevance, rollout])
def test_one_set_gives_the_numbers_of_the_walk(method: Callable[..., Any]) -> None:
    model, image = tiny("vit_ti16"), noise(2, 3, 64, 80)
    walked = explained(model)
    related = ExplainedModel(model=model, backbone=model.backbone, head=model.head, score=walked.score,
                             targets=walked.targets, reads=lambda output, target: ("image", 0))
    torch.testing.assert_close(method(related, image, 2).map.float(), method(walked, image, 2).map,
                               rtol=1e-4, atol=1e-9)


def test_grouped_attention_is_one_matrix_between_places() -> None:
    with torch.no_grad(), record(model := tiny("swin_t")) as recording:
        model(noise(1, 3, 72, 100))
    layers = sites(recording.layers)
    for site in layers:
        assert isinstance(site.groups, Windows)
        matrix = whole(site, site.weights.mean(-3))[0].numpy()
        np.testing.assert_allclose(matrix, dense(site, site.weights[0].mean(-3)), atol=1e-7)
    with pytest.raises(ExplainError, match="names that differ"):
        relate([(site, site.weights.mean(-3)) for site in layers], rollout_rule)
    attention = draw(1, 16, 4, seed=0)
    site, _ = layer("image", "image", attention)
    cells = Layer(**{**vars(site), "groups": squares(2), "grid": (4, 4)})
    assert isinstance(cells.groups, Reduced)
    torch.testing.assert_close(whole(cells, attention).sum(-1), attention.sum(-1), rtol=1e-6, atol=0)
    with pytest.raises(ExplainError, match="cannot be laid out"):
        whole(Layer(**{**vars(cells), "grid": None}), attention)


def test_steps_of_a_recurrent_mixer_are_its_queries_in_order() -> None:
    network, (source, target) = build("recurrent"), inputs("recurrent")
    with torch.no_grad(), record(network) as recording:
        network(source, target)
        network(source, target)                                     # each run counts anew
    count = target.shape[1]
    assert [site.step for site in recording.layers] == list(range(count))
    assert [site.call for site in recording.layers] == list(range(1, count + 1))
    assert {(site.queries, site.keys, site.stepwise) for site in recording.layers} == {("target", "source", True)}
    (site, joined), = join_steps([(site, site.weights[:, 0]) for site in recording.layers])
    assert joined.shape == (*target.shape, source.shape[1])
    assert torch.equal(joined[:, 3], recording.layers[3].weights[:, 0, 0])


def test_layers_name_their_token_sets() -> None:
    network, texts = build("post-norm"), inputs("post-norm")
    with torch.no_grad(), record(network) as recording:
        network(*texts)
    assert [(site.queries, site.keys) for site in recording.layers] == [
        ("source", "source")] * 2 + [("target", "target"), ("target", "source")] * 2
    for name in ("vit_ti16", "swin_t", "vit_giant14"):
        with record(model := tiny(name)) as recording:
            model(noise(1, 3, 56, 56))
        assert {site.keys for site in recording.layers} == {"image"}
        assert {site.queries for site in recording.layers} == ({"image", "probe"} if "giant" in name else {"image"})


def test_sets_that_change_their_size_are_refused() -> None:
    def square(size: int) -> Tensor:
        return torch.ones(1, size, size)
    with pytest.raises(ExplainError, match="'a' has 4 tokens in a.a and 3 before"):
        relate([layer("a", "a", square(3)), layer("a", "a", square(4), call=2)], rollout_rule)
    with pytest.raises(ExplainError, match="2 tokens of the set 'a' ask in a.b, and it has 3"):
        relate([layer("a", "a", square(3)), layer("a", "b", torch.ones(1, 2, 5), call=2)], rollout_rule)
    with pytest.raises(ExplainError, match="look at 'b'"):
        sites([layer("a", "b", square(3))[0]])


def test_a_token_that_asks_alone_changes_alone() -> None:
    """Class attention: the first token asks, the others stay what they were."""
    asked = draw(1, 1, 4, seed=0)
    for rule, kept in ((relevance_rule, 1.0), (rollout_rule, 1 / (1 + float(asked.sum())))):
        matrix = relate([layer("image", "image", asked)], rule)["image", "image"][0]
        assert torch.equal(matrix[1:], torch.eye(4).double()[1:])
        expected = kept * (torch.eye(4).double()[0] + asked[0, 0])
        torch.testing.assert_close(matrix[0], expected)
