"""Weights of the layers that read an image, for images of another number of channels."""
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitrail.core.errors import CheckpointError
from vitrail.nn.backbone import AdaptableStem, Backbone


def fold_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """The weight (out, C, ...) of a layer over C channels, for `in_chans` of them: (out, in_chans, ...).

    To one channel by summing over all, so that a grey image gives what it gives three times side by side, up to
    rounding. To any other number by repeating channels in turn, times C / in_chans, so that answers keep their size
    (as timm adapts its releases). The sums are taken in float64.

    Raises CheckpointError for a weight without channels, and for less than one channel.

        >>> fold_input_channels(torch.ones(8, 3, 4, 4), 1).shape
        torch.Size([8, 1, 4, 4])
    """
    if weight.ndim < 2 or not weight.shape[1]:
        raise CheckpointError(f"a weight of shape {tuple(weight.shape)} does not read channels: (out, channels, ...)")
    if in_chans < 1:
        raise CheckpointError(f"in_chans={in_chans}: an image has at least one channel")
    channels = weight.shape[1]
    if in_chans == channels:
        return weight
    if in_chans == 1:
        return weight.double().sum(1, keepdim=True).to(weight.dtype)
    turn = torch.arange(in_chans, device=weight.device) % channels
    return weight[:, turn] * (channels / in_chans)


def stem_weights(model: nn.Module) -> tuple[str, ...]:
    """The names, in the model's state dict, of the tensors that read the image, in every backbone below it.

    Empty where its backbones declare none: those of T2T-ViT norm the pixels of all channels together, the SAGAN
    discriminator's are divided by their largest singular value, so their weights alone cannot be adapted.

        >>> stem_weights(create_model("vit_s16"))
        ('backbone.patch_embed.proj.weight',)
    """
    names = []
    for path, module in model.named_modules():
        if isinstance(module, Backbone) and isinstance(module, AdaptableStem):
            prefix = path + "." if path else ""
            names += [prefix + name for name in module.stem_weights]
    return tuple(names)


def adapt_input_channels(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, in the names of the model, with the weights that read the image adapted to the model's `in_chans`.

    Where a weight has the model's number of channels already, it stays as it is; `fold_input_channels` says how the
    others change. A grey model answers as the released one does for the same grey image in three channels, as long
    as the preprocessing is the same for all of them (one mean and one deviation).

    Raises CheckpointError where no backbone of the model declares which weights read the image.

        >>> model = create_model("vit_s16", in_chans=1)
        >>> model.load_state_dict(adapt_input_channels(model, released))
    """
    names = stem_weights(model)
    if not names:
        raise CheckpointError(f"{type(model).__name__} cannot take weights for another number of channels: its first "
                              "layers do not allow it (none is declared in `stem_weights`). Load them into a model of "
                              "their own number, or train from scratch")
    own = model.state_dict()
    adapted = dict(state)
    for name in names:
        if name in state and state[name].ndim == own[name].ndim:
            adapted[name] = fold_input_channels(state[name], own[name].shape[1])
    return adapted
