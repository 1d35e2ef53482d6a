"""Every sample once, over however many processes: scores with intervals, each answer, and what was left out."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.core.errors import DataError, SettingsError, VitrailError
from vitrail.core.identity import Identity
from vitrail.tasks.classification.metrics import (
    Bin,
    ClassScore,
    Ints,
    Outcomes,
    intervals,
    per_class,
    reliability,
)
from vitrail.tasks.classification.intervals import Score

Transform = Callable[[Tensor], Tensor]
