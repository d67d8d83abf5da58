"""Strided 1x1 convolutions on a CPU, without a kernel of oneDNN that writes past its memory.

In float32 and channels_last, the weight gradient of a 1x1 convolution with a stride corrupts the heap if it
has fewer input channels than a vector register has elements (8 with AVX2, 16 with AVX-512; torch 2.15). The
process then aborts, or computes with damaged values. Taking every stride-th pixel first and
convolving with stride 1 gives the same values through another kernel.
"""

from __future__ import annotations

from torch import Tensor, nn

VECTOR = 16  # elements of float32 in the widest vector register


def subsample_first(model: nn.Module) -> None:
    """Make the strided 1x1 convolutions of `model` with few input channels subsample their input and then
    convolve with stride 1. Weights, their names and what the network computes stay the same."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _is_affected(layer):
            layer.register_forward_pre_hook(_Subsample(*layer.stride))
            layer.stride = (1, 1)


def _is_affected(layer: nn.Conv2d) -> bool:
    few = layer.in_channels // layer.groups < VECTOR
    return few and layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.padding == (0, 0)


class _Subsample:
    """A forward pre-hook: every `down`-th row and `across`-th column of images N,C,H,W."""

    def __init__(self, down: int, across: int) -> None:
        self.down, self.across = down, across

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0][..., :: self.down, :: self.across]
