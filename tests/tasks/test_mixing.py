import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.errors import SettingsError
from vitrail.tasks.classification.data import Batch
from vitrail.tasks.classification.losses import soft_targets
from vitrail.tasks.classification.mixing import apply, check_pairs, draw
from vitrail.tasks.classification.settings import Mixing
from vitrail.training.objective import part

BOTH = Mixing(mixup=0.8, cutmix=1.0, probability=0.8)
KINDS = [Mixing(mixup=0.4), Mixing(cutmix=1.0), BOTH]


def batch(n: int, height: int = 12, width: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    images = torch.randn(n, 3, height, width, generator=g)
    return images, soft_targets(torch.randint(5, (n,), generator=g), 5, 0.1), torch.randperm(1000, generator=g)[:n]


def planned(images: torch.Tensor, indices: torch.Tensor, *, mixing: Mixing, seed: int = 0, epoch: int = 0) -> Batch:
    """A batch with its plan, as `CollateImages` makes it."""
    height, width = images.shape[-2:]
    plan = draw(indices.tolist(), mixing=mixing, seed=seed, epoch=epoch, size=(height, width))
    return Batch(images=images, labels=torch.zeros(len(images)), indices=indices, plan=plan.repeat_interleave(2, 0))


def mix_pairs(images: torch.Tensor, targets: torch.Tensor, indices: torch.Tensor, *, mixing: Mixing, seed: int,
              epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets mixed, as the task mixes them."""
    return planned(images, indices, mixing=mixing, seed=seed, epoch=epoch).mixed(targets)


@pytest.mark.parametrize("mixing", KINDS)
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_processes_and_micro_batches_change_nothing(mixing: Mixing, parts: int) -> None:
    images, targets, indices = batch(12)
    whole = mix_pairs(images, targets, indices, mixing=mixing, seed=3, epoch=2)
    shares = [mix_pairs(*share, mixing=mixing, seed=3, epoch=2)
              for share in zip(*(t.chunk(parts) for t in (images, targets, indices)), strict=True)]
    assert torch.equal(whole[0], torch.cat([s[0] for s in shares]))
    assert torch.equal(whole[1], torch.cat([s[1] for s in shares]))
    assert not torch.equal(whole[0], images)


def test_it_is_a_function_of_seed_epoch_and_pair_alone() -> None:
    images, targets, indices = batch(8)

    def mixed(seed: int = 0, epoch: int = 0, shift: int = 0) -> torch.Tensor:
        return mix_pairs(images, targets, indices + shift, mixing=BOTH, seed=seed, epoch=epoch)[0]

    before = torch.get_rng_state()
    first = mixed()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert torch.equal(mixed(), first)
    assert not any(torch.equal(mixed(**other), first) for other in ({"seed": 1}, {"epoch": 1}, {"shift": 1}))


def test_both_samples_of_a_pair_and_their_order_count() -> None:
    def plan(*pair: int) -> list[float]:
        return draw(pair, mixing=Mixing(mixup=1.0), seed=0, epoch=0, size=(8, 8))[0].tolist()

    assert plan(1, 2) == plan(1, 2) and len({tuple(plan(*p)) for p in ((1, 2), (1, 3), (2, 1), (3, 2))}) == 4


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=0.8, cutmix=1.0, probability=0.0)])
def test_off_is_the_identity(mixing: Mixing) -> None:
    images, targets, indices = batch(6)
    mixed = mix_pairs(images, targets, indices, mixing=mixing, seed=0, epoch=0)
    assert not mixing.on and torch.equal(mixed[0], images) and torch.equal(mixed[1], targets)


def test_mixup_is_the_papers_convex_combination() -> None:
    images, targets, indices = batch(6)
    mixing = Mixing(mixup=0.7)
    plan = draw(indices.tolist(), mixing=mixing, seed=1, epoch=4, size=(12, 9))
    mixed, blend = mix_pairs(images, targets, indices, mixing=mixing, seed=1, epoch=4)
    for pair in range(3):
        share, a, b = plan[pair, 0], 2 * pair, 2 * pair + 1
        torch.testing.assert_close(mixed[a], share * images[a] + (1 - share) * images[b])
        torch.testing.assert_close(mixed[b], share * images[b] + (1 - share) * images[a])
        torch.testing.assert_close(blend[a], share * targets[a] + (1 - share) * targets[b])
        torch.testing.assert_close(blend[b], share * targets[b] + (1 - share) * targets[a])


def test_cutmix_exchanges_one_box_and_counts_its_pixels() -> None:
    images, targets, indices = batch(40)
    mixed, blend = mix_pairs(images, targets, indices, mixing=Mixing(cutmix=1.0), seed=0, epoch=0)
    sizes = set()
    for a in range(0, 40, 2):
        b = a + 1
        own, other = (mixed[a] == images[a]).all(0), (mixed[a] == images[b]).all(0)
        assert (own ^ other).all(), "each pixel is wholly one image's"
        assert torch.equal((mixed[b] == images[a]).all(0), other)
        rows, columns = other.any(1).sum(), other.any(0).sum()
        assert other.sum() == rows * columns, "a box"
        share = own.float().mean()
        torch.testing.assert_close(blend[a], share * targets[a] + (1 - share) * targets[b], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(blend[b], share * targets[b] + (1 - share) * targets[a], atol=1e-6, rtol=1e-5)
        sizes.add(int(other.sum()))
    assert len(sizes) > 5


def test_shares_are_drawn_from_the_beta_distribution() -> None:
    from scipy import stats
    for alpha in (0.2, 1.0, 3.0):
        plan = draw(range(4000), mixing=Mixing(mixup=alpha), seed=0, epoch=0, size=(8, 8))
        assert stats.kstest(plan[:, 0].numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_box_areas_follow_the_share_where_nothing_is_lost() -> None:
    plan = draw(range(4000), mixing=Mixing(cutmix=1.0), seed=0, epoch=0, size=(1000, 1000))
    top, bottom, left, right = plan[:, 2:].unbind(-1)
    inside = (top > 0) & (bottom < 1000) & (left > 0) & (right < 1000)
    assert torch.allclose((bottom - top)[inside], (right - left)[inside]), "as square as the image"
    torch.testing.assert_close(plan[:, 1], 1 - (bottom - top) * (right - left) / 1e6)
    assert (plan[:, 0] == 1).all() and inside.sum() > 100


def test_probability_and_switch_are_kept() -> None:
    plan = draw(range(8000), mixing=Mixing(mixup=1.0, cutmix=1.0, probability=0.6, switch=0.25), seed=0, epoch=0,
                size=(64, 64))
    blended = (plan[:, 0] < 1).float().mean().item()
    cut = (plan[:, 3] > plan[:, 2]).float().mean().item()
    assert blended == pytest.approx(0.45, abs=0.03) and cut == pytest.approx(0.15, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(pairs=st.integers(1, 4), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 2**62),
       mixup=st.sampled_from([0.0, 5e-324, 1e-3, 1.0, 1000.0]), cutmix=st.sampled_from([0.0, 5e-324, 1.0, 1000.0]))
def test_whatever_the_settings_images_stay_within_their_pair(pairs: int, height: int, width: int, seed: int,
                                                            mixup: float, cutmix: float) -> None:
    images, targets, indices = batch(2 * pairs, height, width)
    mixed, blend = mix_pairs(images, targets, indices, mixing=Mixing(mixup=mixup, cutmix=cutmix), seed=seed, epoch=1)
    own = images.unflatten(0, (-1, 2))
    low, high = own.amin(1, keepdim=True), own.amax(1, keepdim=True)
    assert ((mixed.unflatten(0, (-1, 2)) >= low - 1e-5) & (mixed.unflatten(0, (-1, 2)) <= high + 1e-5)).all()
    torch.testing.assert_close(blend.sum(-1), torch.ones(2 * pairs))
    torch.testing.assert_close(own.sum(1), mixed.unflatten(0, (-1, 2)).sum(1), atol=1e-4, rtol=1e-4)   # nothing is lost
    assert blend.min() >= 0


def test_an_unmixed_pair_keeps_every_bit() -> None:
    images, targets, _ = batch(4)
    plan = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    mixed, blend = apply(images, targets, plan)
    assert torch.equal(mixed, images[[0, 1, 3, 2]]) and torch.equal(blend, targets[[0, 1, 3, 2]])


def test_odd_batches_are_refused() -> None:
    images, targets, indices = batch(5)
    with pytest.raises(SettingsError, match="holds 5"):
        mix_pairs(images, targets, indices, mixing=BOTH, seed=0, epoch=0)
    for size, of, accumulate in ((12, 3, 2), (2, 1, 1), (64, 8, 4)):
        check_pairs(batch=size, of=of, accumulate=accumulate)
    with pytest.raises(SettingsError, match="multiple of 12.*it is 18: use 12 or 24"):
        check_pairs(batch=18, of=3, accumulate=2)
    with pytest.raises(SettingsError, match="it is 1: use 2,"):
        check_pairs(batch=1, of=1, accumulate=1)


def test_a_step_that_mixes_compiles_as_one_graph() -> None:
    images, targets, indices = batch(4)
    b = planned(images, indices, mixing=BOTH)

    @torch.compile(backend="eager", fullgraph=True)
    def step(given: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return given.mixed(targets)
    mixed, blend = step(b, targets)
    plain = mix_pairs(images, targets, indices, mixing=BOTH, seed=0, epoch=0)
    assert torch.equal(mixed, plain[0]) and torch.equal(blend, plain[1])


def test_a_batch_keeps_its_plan_where_it_goes() -> None:
    images, _, indices = batch(8)
    b = planned(images, indices, mixing=BOTH, epoch=3)
    moved = part(b, 1, 2).to("cpu")
    assert moved.plan is not None and b.plan is not None
    assert torch.equal(moved.plan, b.plan[4:]) and len(moved) == 4
