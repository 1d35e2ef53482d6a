"""A picture of where every head of every layer looks."""
from typing import Any

import torch
from PIL import Image
from torch import nn

from vitrail.core.errors import ExplainError
from vitrail.explanation import drawing
from vitrail.explanation.explained import config_of, explained
from vitrail.explanation.methods import looked, reader, run
from vitrail.explanation.picture import prepare
from vitrail.explanation.record import record
from vitrail.explanation.tokens import readout, sites

GAP = 4
NAME = 34               # room for a layer's number


def attention_grid(model: nn.Module, image: Any, *, side: int = 64, most: int = 24) -> Image.Image:
    """Layers down, heads across, RGB: how much each head of each layer looks at each image token.

    From the token that the answer is read off; from all tokens where that one takes no part. Every tile has its own
    scale, from its least to its greatest value. image: as for `explain`. side: of a tile, in pixels. most: layers
    and heads shown; of more layers, as many spread evenly over the depth, of more heads the first.

    Raises ExplainError where nothing attends to image tokens, DataError on what is not an image.
    """
    config = config_of(model)
    if side < 8 or most < 1:
        raise ExplainError(f"side={side} and most={most}: tiles have at least 8 pixels, and there is at least one")
    picture = prepare(image, config.spec.preprocessing)
    first = next(model.parameters())
    subject = explained(model)
    with torch.no_grad(), record(model) as recording:
        features, output = run(subject, picture.input.to(first.device, first.dtype))
        layers = sites(recording.layers)
        if not layers:
            raise ExplainError("this model's attention is never between image tokens")
        share = readout(reader(subject, subject.choose(output, None)), features)
    step = max(1.0, len(layers) / most)
    numbers = sorted({min(len(layers) - 1, int(i * step)) for i in range(min(most, len(layers)))})
    rows = []
    for n in numbers:
        weights = layers[n].weights[:1]
        heads = min(weights.shape[-3], most)
        maps = [looked(share, layers[n], weights.select(-3, head))[0].cpu().numpy() for head in range(heads)]
        rows.append((n, [drawing.cell(m, side) for m in maps]))
    tall = max(tile.height for _, tiles in rows for tile in tiles)
    wide = max(tile.width for _, tiles in rows for tile in tiles)
    across, head_room = max(len(tiles) for _, tiles in rows), 22
    sheet = drawing.blank(NAME + across * (wide + GAP), head_room + len(rows) * (tall + GAP))
    drawing.write(sheet, (2, 5), "layer", size=11)
    for head in range(across):
        text = f"head {head}" if wide >= 48 else str(head)
        drawing.write(sheet, (NAME + head * (wide + GAP) + wide / 2, 5), text, size=11, anchor="mt")
    for i, (n, tiles) in enumerate(rows):
        top = head_room + i * (tall + GAP)
        drawing.write(sheet, (NAME - 8, top + tall / 2), str(n), size=13, anchor="rm")
        for head, tile in enumerate(tiles):
            sheet.paste(tile, (NAME + head * (wide + GAP), top))
    return sheet
