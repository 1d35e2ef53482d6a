"""Penalties on a network's gradient with respect to its input."""
import torch
from torch import Tensor, nn

from vitrail.nn import second_derivatives


def gradient_penalty(model: nn.Module, images: Tensor) -> Tensor:
    """The mean over images of the squared norm of the score's gradient: R1 without its factor (Mescheder et al.,
    arXiv:1801.04406, equation 9), to be added to a discriminator's loss times gamma / 2.

    model: images (B, C, H, W) -> scores, of any shape, summed up for each image. Its own gradient goes through the
    second derivative of every layer, attention included. Returns a tensor of no dimensions.

    >>> loss = wrong + 0.5 * 10.0 * gradient_penalty(discriminator, real)          # doctest: +SKIP
    """
    given = images.detach().requires_grad_()
    with torch.enable_grad(), second_derivatives():
        score = model(given).sum()
        gradient, = torch.autograd.grad(score, given, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
