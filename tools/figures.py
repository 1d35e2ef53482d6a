"""What a system costs, measured without running it: `python tools/figures.py 'vit*'` prints the card's figures."""
import sys
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

import vitrail
from vitrail.core.catalogue import find, variant_of
from vitrail.measure.text import text_cost


def measure(name: str) -> tuple[int, float]:
    """(parameters, 1e9 multiply-adds of an image at the card's size), with the head of 1,000 classes; of a model of
    text those of a text of the card's length.

    Counted on the meta device: convolutions, matrix products and attention; not norms, activations or additions.
    """
    if find(name).kind == "foundation":
        return text_cost(variant_of(name))
    size = find(name).image
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")         # initialisation has nothing to do there
        model = vitrail.create_model(name, classes=1000)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, size, size))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9


if __name__ == "__main__":
    for pattern in sys.argv[1:] or ["*"]:
        for name in vitrail.list_models(pattern) + vitrail.list_models(pattern, kind="foundation"):
            params, gflops = measure(name)
            print(f"{name:28} params={params:_} gflops={gflops:.3f}")
