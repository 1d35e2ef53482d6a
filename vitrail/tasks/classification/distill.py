"""A student listens to a teacher: soft and hard distillation (DeiT, Touvron et al., arXiv:2012.12877, section 4)."""
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.core.errors import SettingsError
from vitrail.core.config import Preprocessing
from vitrail.tasks.classification.losses import wide
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.settings import Distillation


def soft(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """The teacher's term of equation 2 for each sample: logits (B, K) and (B, K) to (B,).

    T^2 KL(teacher_T || student_T) / K, each side a softmax of logits / T. Equation 2 has no 1 / K, and it is there
    all the same: the released training code divides the sum by the number of logits, and its alpha is tuned to that.
    """
    p = (wide(teacher) / temperature).log_softmax(-1)
    q = (wide(student) / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1) * (temperature ** 2 / student.shape[-1])


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """The teacher's term of equation 3 for each sample: cross-entropy with the class that the teacher prefers."""
    return F.cross_entropy(wide(student), teacher.argmax(-1), reduction="none")


def teacher_term(settings: Distillation, student: Tensor, teacher: Tensor) -> Tensor:
    """What the teacher has to say of each sample, (B,), before its weight alpha."""
    if settings.kind == "soft":
        return soft(student, teacher, temperature=settings.temperature)
    return hard(student, teacher)


def two_logits(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits for the labels and those for the teacher, each (B, K).

    A head with a distillation token (``separate``) has two; every other model answers both with the same logits.
    """
    separate = getattr(model.head, "separate", None)
    if separate is None:
        logits = model(images)
        return logits, logits
    labels, distillation = separate(model.backbone(images))
    return labels, distillation


class Teacher:
    """Any classifier, frozen, that answers for a student's batches in the student's order of classes.

    The model is set to eval mode and its parameters stop asking for gradients. It gets the images as the student
    does (mixed, erased), with the student's mean, deviation and size exchanged for its own.
    labels, preprocessing: the student's. Raises SettingsError where the two do not tell the same classes apart.
    """

    def __init__(self, model: Classifier, *, labels: tuple[str, ...], preprocessing: Preprocessing):
        self.order, self.classes = _order(model.config.spec.labels, labels), len(labels)
        self.model, self.config = model.requires_grad_(False).eval(), model.config
        self.device: torch.device | None = None
        own, theirs = self.config.spec.preprocessing, preprocessing
        pairs = list(zip(own.mean, own.std, theirs.mean, theirs.std, strict=True))
        self.factor = [s / d for _, d, _, s in pairs]
        self.offset = [(m - c) / d for c, d, m, _ in pairs]
        self.same_colours = own.mean == theirs.mean and own.std == theirs.std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's normalised images (B, 3, H, W) to the teacher's logits (B, K)."""
        if self.device != images.device:
            self.model.to(images.device)
            self.device = images.device
        logits: Tensor = self.model(self.view(images))
        if logits.shape[-1] != self.classes:
            raise SettingsError(f"the teacher {self.config.model!r} answers with {logits.shape[-1]} classes, "
                                f"and the student has {self.classes}: give a teacher trained on the same classes")
        return logits if self.order is None else logits[:, self.order]

    def view(self, images: Tensor) -> Tensor:
        """The images as this teacher was trained to see them: (B, 3, H, W) to (B, 3, h, w)."""
        if not self.same_colours:
            factor, offset = (images.new_tensor(v)[:, None, None] for v in (self.factor, self.offset))
            images = images * factor + offset
        size, how = self.config.spec.preprocessing.size, self.config.spec.preprocessing.interpolation
        if tuple(images.shape[-2:]) == size:
            return images
        smoothed = how in ("bilinear", "bicubic")
        return F.interpolate(images, size=size, mode=how, antialias=smoothed, align_corners=False if smoothed else None)


def _order(teacher: tuple[str, ...], student: tuple[str, ...]) -> list[int] | None:
    """Where the teacher keeps each of the student's classes; None where both agree or one has only numbers."""
    if len(teacher) != len(student):
        raise SettingsError(f"the teacher tells {len(teacher)} classes apart and the student {len(student)}: "
                            "give a teacher trained on the same classes")
    numbers = tuple(str(i) for i in range(len(student)))
    if teacher == student or numbers in (teacher, student):
        return None
    if set(teacher) != set(student) or len(set(student)) != len(student):
        strangers = sorted(set(teacher) - set(student)) or sorted(set(student) - set(teacher)) or ["a name used twice"]
        raise SettingsError(f"the teacher and the student name their classes differently (for instance "
                            f"{strangers[0]!r}): give a teacher trained on the same classes")
    return [teacher.index(name) for name in student]
