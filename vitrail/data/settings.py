"""Settings of the data floor. Nothing here imports torch, so that the command line can check them at once."""
import math
from dataclasses import dataclass

from vitrail.core.errors import SettingsError, did_you_mean

ON_ERROR = ("stop", "skip")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises SettingsError naming the nearest choice."""
    if value not in choices:
        raise SettingsError(f"{name} is {value!r}, and must be one of {', '.join(choices)}."
                            f"{did_you_mean(str(value), choices)}")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raises SettingsError where value is not a finite number in [low, high], or not whole where it must be."""
    kind = "a whole number" if whole else "a number"
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        raise SettingsError(f"{name} is {value!r}, and must be {kind} from {low:g} to {high:g}")


def _check_pair(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise SettingsError(f"{name} is {value!r}, and must be two numbers, the smaller first")
    for number in value:
        check_number(name, number, low, high)
    if value[0] > value[1]:
        raise SettingsError(f"{name} is {value!r}, and its first number must not be above its second")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to an image, in this order. Every chance is in [0, 1]; SettingsError outside its range."""

    scale: tuple[float, float] = (0.08, 1.0)                # share of the image's area that a crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)             # width over height of a crop
    flip: float = 0.5                                       # chance of a left-right mirror image
    vertical_flip: float = 0.0
    randaugment_ops: int = 2                                # operations an image; 0 turns RandAugment off
    randaugment_magnitude: int = 9                          # of 30 (Cubuk et al. 2019, arXiv 1909.13719)
    jitter: float = 0.0                                     # strength of brightness, contrast and saturation changes
    erase: float = 0.25                                     # chance of a rectangle of noise (arXiv 1708.04896)

    def __post_init__(self) -> None:
        _check_pair("scale", self.scale, 0.001, 1.0)
        _check_pair("ratio", self.ratio, 0.01, 100.0)
        for name in ("flip", "vertical_flip", "erase", "jitter"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        check_number("randaugment_ops", self.randaugment_ops, 0, 14, whole=True)
        check_number("randaugment_magnitude", self.randaugment_magnitude, 0, 30, whole=True)

    @classmethod
    def none(cls) -> "Augmentation":
        """The whole image (its central part where its form differs from the model's), always the same."""
        return cls(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, randaugment_ops=0, randaugment_magnitude=0, erase=0.0)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a file becomes an upright picture of 8-bit RGB. SettingsError outside a field's range."""

    max_pixels: int = 50_000_000                            # a larger image is refused before it is decoded
    background: tuple[int, int, int] = (255, 255, 255)      # what shows through a transparent image
    value_range: tuple[float, float] | None = None          # black and white of float, 16- and 32-bit images
    draft: int = 0                                          # pixels that a JPEG's sides need at least; 0: all there are

    def __post_init__(self) -> None:
        check_number("max_pixels", self.max_pixels, 1, 2**31, whole=True)
        check_number("draft", self.draft, 0, 2**16, whole=True)
        if not isinstance(self.background, tuple) or len(self.background) != 3:
            raise SettingsError(f"background is {self.background!r}, and must be three numbers: red, green, blue")
        for value in self.background:
            check_number("background", value, 0, 255, whole=True)
        if self.value_range is not None:
            _check_pair("value_range", self.value_range, -1e38, 1e38)
            if self.value_range[0] == self.value_range[1]:
                raise SettingsError(f"value_range is {self.value_range!r}, and its two numbers must differ")


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a data set is opened. SettingsError outside a field's range."""

    on_error: str = "stop"                                  # stop: the first bad file is an error; skip: leave it out
    classes: tuple[str, ...] | None = None                  # the labels of a model, in its order
    class_depth: int = 0                                    # folder levels that name a class; 0: down to the images
    decoding: Decoding = Decoding()
    threads: int = 0                                        # for the pass over all files; 0: as many as processors
    verify: bool = True                                     # False: skip makes no such pass, for who reads all anyway

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ON_ERROR)
        check_number("class_depth", self.class_depth, 0, 64, whole=True)
        check_number("threads", self.threads, 0, 256, whole=True)
        if self.classes is not None and (not self.classes or len(set(self.classes)) != len(self.classes)):
            raise SettingsError("classes must name every class once, and at least one")
