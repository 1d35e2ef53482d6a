"""Clustered attention: who is grouped with whom, what a query sees, and what it costs."""
import pytest
import torch

from tests.attention.proof import draw
from vitrail.attention.clustered import (ClusteredAttention, Clusters, ImprovedClusteredAttention, ask_again, centres,
                                         counts, starts)
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes


def clumps(n: int, k: int, width: int = 8) -> torch.Tensor:
    """n queries (1, 2, n, width) around k far points, the i-th around point i mod k."""
    return 9 * draw(1, 2, k, width)[:, :, torch.arange(n) % k] + 0.01 * draw(1, 2, n, width, seed=1)


def test_clumps_are_found() -> None:
    index = Clusters(8, clusters=12, rounds=10, bits=63, seed=0)(clumps(60, 4))
    same = torch.arange(60) % 4
    for head in index[0]:
        # clumps may be cut in pieces, as there are more clusters than clumps, but no piece holds parts of two
        assert all(len(set(same[head == c].tolist())) <= 1 for c in range(12))


def test_nearness_is_hamming_distance() -> None:
    """Every query is in the first of the nearest clusters, counted bit by bit."""
    clusters, q = Clusters(4, clusters=5, rounds=1, bits=20, seed=0), draw(1, 1, 30, 4)
    bits = torch.stack([q[0, 0] @ plane[:-1] > plane[-1] for plane in clusters.planes], 1)
    codes = bits[starts(30, 5, q)]
    expected = [min(range(5), key=lambda c: int((bits[i] != codes[c]).sum())) for i in range(30)]
    assert clusters(q)[0, 0].tolist() == expected


def test_a_cluster_without_members_keeps_its_code() -> None:
    clusters = Clusters(4, clusters=3, rounds=5, bits=20, seed=0)
    equal = torch.ones(1, 1, 7, 4)
    assert clusters(equal).unique().tolist() == [0], "of three equal codes the first takes all"
    assert counts(clusters(equal), 3).tolist() == [[[7, 0, 0]]]
    middles = centres(equal, clusters(equal), counts(clusters(equal), 3))
    assert middles[0, 0, 0].tolist() == [1] * 4 and not middles[0, 0, 1:].any()


@pytest.mark.parametrize("grid", [(8, 8), (5, 40), (64, 64)])
def test_the_first_codes_are_spread_over_a_map(grid: tuple[int, int]) -> None:
    h, w = grid
    at = starts(h * w, 25, torch.zeros(1))
    assert len(set(at.tolist())) == 25
    assert len(set((at // w).tolist())) >= min(h, 12) * 0.6 and len(set((at % w).tolist())) >= min(w, 12) * 0.6


def test_the_seed_makes_the_planes_and_the_calls_agree() -> None:
    module, x = ClusteredAttention(16, 2, clusters=4, seed=3), draw(2, 30, 16)
    assert torch.equal(module(x), module(x))
    again, other = ClusteredAttention(16, 2, seed=3), ClusteredAttention(16, 2, seed=4)
    assert torch.equal(module.clusters.planes, again.clusters.planes)
    assert not torch.equal(module.clusters.planes, other.clusters.planes)
    assert "clusters.planes" in module.state_dict()


def test_queries_of_a_cluster_share_their_answer() -> None:
    module, x = ClusteredAttention(16, 1, clusters=4), draw(1, 30, 16)
    index, out = module.clusters(module.qkv(x)[0])[0, 0], module(x)[0]
    for members in (out[index == c] for c in index.unique()):
        torch.testing.assert_close(members, members[:1].expand_as(members))
    assert len(out.unique(dim=0)) == len(index.unique()) > 1


def test_a_query_moves_the_answers_of_its_cluster() -> None:
    module, x = ClusteredAttention(16, 1, clusters=4), draw(1, 30, 16)
    q, k, v = (t.detach() for t in module.qkv(x))
    index = module.clusters(q)
    q.requires_grad_()
    sizes = counts(index, 4)
    answer = module.attend(centres(q, index, sizes), k, v)[0, 0, index[0, 0, 5]]
    grad, = torch.autograd.grad(answer.square().sum(), q)
    assert torch.equal(grad[0, 0].abs().sum(-1) > 0, index[0, 0] == index[0, 0, 5])


def test_the_improved_form_tells_queries_of_a_cluster_apart() -> None:
    module, x = ImprovedClusteredAttention(16, 1, clusters=4, top=3), draw(1, 30, 16)
    assert len(module(x)[0].unique(dim=0)) == 30


@pytest.mark.parametrize("sizes", [(20, 0, 0), (0, 0, 20), (7, 6, 7), (1, 18, 1), (0, 20, 0)])
@pytest.mark.parametrize("top", [1, 3, 8])
def test_blocks_hold_every_query_once(sizes: tuple[int, ...], top: int) -> None:
    """However uneven the clusters are: with values that name their key, each query gets its own cluster's."""
    index = torch.arange(3).repeat_interleave(torch.tensor(sizes))[torch.randperm(20)][None, None]
    best = torch.stack([torch.full((top,), c) for c in range(3)])[None, None]
    values = torch.eye(3)[None, None]
    named = ask_again(draw(1, 1, 20, 3), draw(1, 1, 3, 3), values, best, index, counts(index, 3))
    assert torch.equal(named[0, 0].argmax(-1), index[0, 0])
    torch.testing.assert_close(named.sum(-1), torch.ones(1, 1, 20))


@pytest.mark.parametrize("build", [ClusteredAttention, ImprovedClusteredAttention])
def test_few_tokens_and_many_clusters(build: type[torch.nn.Module]) -> None:
    module = build(16, 2)
    for n in (1, 2, 24, 26):
        assert module(draw(2, n, 16)).isfinite().all()


@pytest.mark.parametrize("build", [ClusteredAttention, ImprovedClusteredAttention])
def test_the_clusters_weights_are_seen(build: type[torch.nn.Module]) -> None:
    module, x = build(16, 2, clusters=4), draw(2, 30, 16)
    with record(module) as seen:
        out = module(x)
    assert torch.equal(out, module(x))
    (_, weights), = seen.items()
    assert weights.shape == (2, 2, 4, 30)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))


@pytest.mark.parametrize("build", [ClusteredAttention, ImprovedClusteredAttention])
def test_gradients_are_true(build: type[torch.nn.Module]) -> None:
    module, x = build(4, 2, clusters=2).double(), draw(1, 6, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, x)


@pytest.mark.parametrize("build", [ClusteredAttention, ImprovedClusteredAttention])
@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_with_the_tokens(build: type[torch.nn.Module], training: bool) -> None:
    module = build(64, 2, rounds=2)

    def peak(n: int) -> int:
        x = draw(1, n, 64)
        with torch.set_grad_enabled(training):
            return peak_bytes(lambda: module(x))
    small, large = peak(2048), peak(8192)
    assert large < 4.4 * small
    assert large < 2 * 8192 * 32 * 32 * 4, "32 keys of width 32 for each query of 2 heads would be more"


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="0 clusters"):
        ClusteredAttention(8, 2, clusters=0)
    with pytest.raises(ValueError, match="at least one key"):
        ImprovedClusteredAttention(8, 2, top=0)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        ClusteredAttention(8, 3)
