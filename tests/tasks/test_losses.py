import pytest
import torch
import torch.nn.functional as F

from vitrail.tasks.classification.losses import cross_entropy, smooth, soft_targets


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(7, 5, generator=g, dtype=torch.float64) * 4, torch.randint(5, (7,), generator=g)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_whole_labels_equal_torch(batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> None:
    logits, labels = batch
    ours = cross_entropy(logits, soft_targets(labels, 5, smoothing))
    theirs = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert ours.shape == (7,)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_soft_targets_equal_torch(batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> None:
    logits, _ = batch
    targets = torch.rand(7, 5, dtype=torch.float64).softmax(-1)
    theirs = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, smooth(targets, smoothing)), theirs)


def test_targets_are_probabilities(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    targets = soft_targets(batch[1], 5, 0.2)
    torch.testing.assert_close(targets.sum(-1), torch.ones(7))
    assert targets.min() > 0 and (targets.argmax(-1) == batch[1]).all()


def test_the_least_loss_is_the_targets_entropy() -> None:
    targets = smooth(torch.eye(4, dtype=torch.float64), 0.1)
    entropy = torch.special.entr(targets).sum(-1)
    torch.testing.assert_close(cross_entropy(targets.log(), targets), entropy)
    assert (cross_entropy(torch.randn(4, 4, dtype=torch.float64), targets) > entropy).all()


def test_half_precision_is_widened() -> None:
    logits = torch.tensor([[90.0, 0.0, -90.0]], dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.tensor([[0.0, 1.0, 0.0]]))
    assert loss.dtype == torch.float32 and loss.item() == 90.0


def test_gradient_is_softmax_minus_target(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    logits.requires_grad_()
    targets = soft_targets(labels, 5, 0.1).double()
    cross_entropy(logits, targets).sum().backward()
    torch.testing.assert_close(logits.grad, logits.softmax(-1).detach() - targets)
