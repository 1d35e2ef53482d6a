import subprocess
import sys

import pytest

from vitrail.core.errors import SettingsError
from vitrail.tasks.classification.settings import Distillation, LossSettings, Mixing


@pytest.mark.parametrize("kind, name, value", [
    (Mixing, "mixup", -0.1), (Mixing, "mixup", float("nan")), (Mixing, "cutmix", float("inf")),
    (Mixing, "cutmix", 1001),
    (Mixing, "probability", 1.1), (Mixing, "switch", -1), (Mixing, "mixup", "0.8"), (Mixing, "mixup", True),
    (Mixing, "mixup", None), (Distillation, "alpha", 1.5), (Distillation, "temperature", 0),
    (Distillation, "temperature", -3), (Distillation, "kind", "Hard"), (Distillation, "kind", 3),
    (LossSettings, "smoothing", 1.01), (LossSettings, "smoothing", -0.1),
])
def test_values_out_of_range_are_refused_by_name(kind: type, name: str, value: object) -> None:
    with pytest.raises(SettingsError) as e:
        kind(**{name: value})
    assert repr(value) in str(e.value)


def test_a_misspelt_kind_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'hard'"):
        Distillation(kind="hrad")


def test_what_is_on() -> None:
    assert not Mixing().on and not Mixing(mixup=1, probability=0).on and Mixing(cutmix=0.1).on
    assert not Distillation().on and Distillation(kind="soft").on


def test_no_torch_is_needed() -> None:
    code = "import sys, vitrail.tasks.classification.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
