"""What a network for text costs, counted without running it."""
import inspect
import warnings
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitrail.core.card import TextFigures, Variant


def text_cost(found: Variant[Any]) -> tuple[int, float]:
    """(parameters, 1e9 multiply-adds of one text at the card's length), with a text of that length for each argument of
    the network's `forward`.

    Counted on the meta device: matrix products and attention; not norms, activations or additions.
    """
    assert isinstance(found.figures, TextFigures)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")         # initialisation has nothing to do there
        network = found()
        text = torch.zeros(1, found.figures.length, dtype=torch.int64)
        texts = [text] * len(inspect.signature(network.forward).parameters)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*texts)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e9
