"""Settings of the data floor. Nothing here imports torch, so that the command line can check them at once."""
from dataclasses import dataclass
from typing import Literal, get_args

from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, part, setting
from vitrail.core.validation import check_choice, check_number, check_ordered

__all__ = ["ON_ERROR", "Augmentation", "DataSettings", "Decoding", "ImageData", "OnError", "Opening", "check_choice",
           "check_number"]

OnError = Literal["stop", "skip"]
ON_ERROR = get_args(OnError)


@dataclass(frozen=True, kw_only=True)
class DataSettings(Checked):
    """Which data, and which of them are held out for validation."""

    source: str = setting("", flag="data", help="the data to learn from")
    val: str = setting("", help="data to evaluate on; left out: a share of the data")
    val_fraction: float = setting(0.2, above=0, below=1, help="the share held out where no other data are named")
    on_error: OnError = setting("stop", help="what a sample that cannot be read does")


@dataclass(frozen=True, kw_only=True)
class ImageData(DataSettings):
    """Which images, and how large the model sees them."""

    source: str = setting("digits", flag="data", help="digits, a folder of class folders, a .csv, hf:..., wds:...")
    size: int = setting(0, low=0, high=4096, help="pixels a side; 0: the model's own")
    crop: float = setting(0.875, above=0, high=1, help="share of the shorter side that evaluation looks at")


@dataclass(frozen=True, kw_only=True)
class Augmentation(Checked):
    """What training does to an image, in this order. Every chance is in [0, 1]; SettingsError outside its range."""

    scale: tuple[float, float] = setting((0.08, 1.0), low=0.001, high=1, flag="crop_scale",
                                         help="share of the image's area that a crop keeps; one number: at least that")
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), low=0.01, high=100, flag="crop_ratio",
                                         help="width over height of a crop")
    flip: float = setting(0.5, low=0, high=1, help="chance of a left-right mirror image")
    vertical_flip: float = setting(0.0, low=0, high=1, help="chance of an upside-down image")
    # of 31 steps, 0 to 30 (Cubuk et al. 2019, arXiv 1909.13719)
    randaugment_ops: int = setting(2, low=0, high=14, flag="randaugment", help="RandAugment operations an image")
    randaugment_magnitude: int = setting(9, low=0, high=30, flag="magnitude", help="of RandAugment, of 31 steps")
    jitter: float = setting(0.0, low=0, high=1, help="strength of brightness, contrast and saturation changes")
    erase: float = setting(0.25, low=0, high=1, help="chance of a rectangle of noise (arXiv 1708.04896)")

    def __post_init__(self) -> None:
        if isinstance(self.scale, int | float) or len(self.scale) == 1:     # a share alone is the least one
            least = self.scale if isinstance(self.scale, int | float) else self.scale[0]
            object.__setattr__(self, "scale", (least, 1.0))
        super().__post_init__()
        check_ordered("scale", self.scale)
        check_ordered("ratio", self.ratio)

    @classmethod
    def none(cls) -> "Augmentation":
        """The whole image (its central part where its form differs from the model's), always the same."""
        return cls(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, randaugment_ops=0, randaugment_magnitude=0, erase=0.0)


@dataclass(frozen=True, kw_only=True)
class Decoding(Checked):
    """How a file becomes an upright picture of 8-bit RGB. SettingsError outside a field's range."""

    max_pixels: int = setting(50_000_000, low=1, high=2**31, help="a larger image is refused before it is decoded")
    background: tuple[int, int, int] = setting((255, 255, 255), low=0, high=255,
                                               help="red, green and blue of what shows through a transparent image")
    value_range: tuple[float, float] | None = setting(None, low=-1e38, high=1e38, help="black and white of float, 16- "
                                                                                       "and 32-bit images")
    draft: int = setting(0, low=0, high=2**16, help="pixels that a JPEG's sides need at least; 0: all there are")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered("value_range", self.value_range)
        if self.value_range is not None and self.value_range[0] == self.value_range[1]:
            raise SettingsError(f"the setting 'value_range' is {self.value_range!r}, and its two numbers must differ")


@dataclass(frozen=True, kw_only=True)
class Opening(Checked):
    """How a data set is opened. SettingsError outside a field's range."""

    on_error: OnError = setting("stop", help="stop: the first bad file is an error; skip: leave it out")
    classes: tuple[str, ...] | None = setting(None, help="the classes of a model, in its order")
    class_depth: int = setting(0, low=0, high=64, help="folder levels that name a class; 0: down to the images")
    decoding: Decoding = part(Decoding)
    threads: int = setting(0, low=0, high=256, help="for the pass over all files; 0: as many as processors")
    verify: bool = setting(True, help="false: skip makes no such pass, for who reads all anyway")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes is not None and (not self.classes or len(set(self.classes)) != len(self.classes)):
            raise SettingsError("classes must name every class once, and at least one")
