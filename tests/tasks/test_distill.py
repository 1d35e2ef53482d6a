import pytest
import torch
import torch.nn.functional as F

from tests.tasks.made import PLAIN, linear
from vitrail.core.errors import SettingsError
from vitrail.core.config import Preprocessing
from vitrail.tasks.classification.distill import Teacher, hard, soft, two_logits
from vitrail.tasks.classification.model import Classifier


def logits(seed: int, n: int = 6, k: int = 4) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_soft_is_the_divergence_of_the_softened_answers(t: float) -> None:
    s, z = logits(0), logits(1)
    expected = F.kl_div((s / t).log_softmax(-1), (z / t).softmax(-1), reduction="none").sum(-1) * t * t / 4
    torch.testing.assert_close(soft(s, z, temperature=t), expected)


def test_an_equal_teacher_has_nothing_to_say() -> None:
    s = logits(0).requires_grad_()
    term = soft(s, s.detach() + 7, temperature=3.0)                 # a shift of all logits is no difference
    torch.testing.assert_close(term, torch.zeros(6, dtype=torch.float64))
    assert torch.autograd.grad(term.sum(), s)[0].abs().max() < 1e-12


def test_a_hot_teacher_is_matched_in_logits() -> None:
    """T -> infinity: T^2 KL becomes half the mean squared difference of centred logits (Hinton et al., section 2.1)."""
    s, z = logits(0), logits(1)
    centred = (s - s.mean(-1, keepdim=True)) - (z - z.mean(-1, keepdim=True))
    torch.testing.assert_close(soft(s, z, temperature=1e3), centred.square().sum(-1) / (2 * 4 * 4), atol=0, rtol=1e-2)


def test_a_cold_teacher_is_a_hard_one() -> None:
    s, z, t = logits(0), logits(1) * 10, 0.01           # times 10: no near tie
    torch.testing.assert_close(soft(s, z, temperature=t), hard(s / t, z) * t * t / 4)


def test_hard_is_cross_entropy_with_the_preferred_class() -> None:
    s, z = logits(0), logits(1)
    torch.testing.assert_close(hard(s, z), F.cross_entropy(s, z.argmax(-1), reduction="none"))


def test_half_precision_answers_are_widened() -> None:
    s, z = logits(0).bfloat16(), logits(1).bfloat16()
    assert soft(s, z, temperature=3.0).dtype == hard(s, z).dtype == torch.float32


def test_a_distilled_head_answers_twice_and_others_once() -> None:
    images = torch.rand(3, 3, 8, 8)
    one, two = linear(4), linear(4, two=True)
    a, b = two_logits(one, images)
    assert a is b and torch.equal(a, one(images))
    a, b = two_logits(two, images)
    assert not torch.equal(a, b)
    torch.testing.assert_close((a + b) / 2, two(images))


def listening(teacher: Classifier, **changes: object) -> Teacher:
    return Teacher(teacher, labels=("a", "b", "c"), preprocessing=Preprocessing(**(vars(PLAIN) | changes)))  # type: ignore[arg-type]


def test_a_teacher_is_frozen_and_its_answers_carry_no_gradient() -> None:
    model = linear(3, labels=("a", "b", "c")).train()
    teacher = listening(model)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not teacher(images).requires_grad


def test_a_teacher_sees_images_as_it_was_trained_to() -> None:
    theirs = Preprocessing(size=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model = linear(3, labels=("a", "b", "c"), preprocessing=theirs)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    raw = torch.rand(2, 3, 8, 8)

    def shown(m: tuple[float, ...], s: tuple[float, ...]) -> torch.Tensor:
        return (raw - torch.tensor(m)[:, None, None]) / torch.tensor(s)[:, None, None]

    teacher = listening(model, mean=mean, std=std)
    torch.testing.assert_close(teacher.view(shown(mean, std)), shown(theirs.mean, theirs.std), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher(shown(mean, std)), model(shown(theirs.mean, theirs.std)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "nearest"])
def test_a_teacher_of_another_size_gets_resized_images(how: str) -> None:
    model = linear(3, labels=("a", "b", "c"), preprocessing=Preprocessing(**(vars(PLAIN) | {"interpolation": how})))
    teacher = listening(model, size=(12, 20))
    flat = torch.full((2, 3, 12, 20), 0.3)
    torch.testing.assert_close(teacher.view(flat), torch.full((2, 3, 8, 8), 0.3))
    assert teacher(torch.rand(2, 3, 12, 20)).shape == (2, 3)
    same = torch.rand(2, 3, 8, 8)
    assert listening(model).view(same) is same


def test_classes_are_matched_by_name() -> None:
    model = linear(3, labels=("c", "a", "b"))
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(listening(model)(images), model(images)[:, [1, 2, 0]])
    numbered = linear(3)
    assert torch.equal(listening(numbered)(images), numbered(images))


def test_other_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match="4 classes apart and the student 3"):
        listening(linear(4))
    with pytest.raises(SettingsError, match="'dog'"):
        listening(linear(3, labels=("a", "b", "dog")))
    liar = linear(3, labels=("a", "b", "c"))
    liar.head = linear(5).head
    with pytest.raises(SettingsError, match="answers with 5 classes"):
        listening(liar)(torch.rand(1, 3, 8, 8))
