"""The features of a network: what goes into its last linear layer."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.evaluate import BATCH
from trainers.feed import feed
from trainers.images import Images
from trainers.spec import InputError

HOST = torch.device("cpu")
PLANTED = 1000.0  # far outside of what a function after the layer, such as a clip, would leave as it is


@torch.no_grad()
def last_layer(model: nn.Module, images: Images, device: torch.device, *, wanted_by: str) -> nn.Linear:
    """The last linear layer in the forward pass of `model`, which is in eval mode. InputError, beginning with
    `wanted_by`, unless its outputs are the logits: whatever it gives out, of either sign, comes out."""
    seen: list[tuple[nn.Linear, Tensor]] = []

    def planted(layer: nn.Linear, _: object, out: Tensor) -> Tensor:
        seen.append((layer, torch.linspace(-PLANTED, PLANTED, out.numel()).to(out).view_as(out)))
        return seen[-1][1]

    with ExitStack() as hooks:
        for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
            hooks.enter_context(layer.register_forward_hook(planted))
        x, _ = next(iter(feed(images, 1, device)))
        logits = model(x)
    if not seen or seen[-1][1].shape != logits.shape or not torch.equal(seen[-1][1], logits):
        raise InputError(
            f"{wanted_by} replaces the last layer, and this network does not end with a linear one: leave it "
            "out, or choose an architecture such as resnet18"
        )
    return seen[-1][0]


def head_of(model: nn.Module, images: Images) -> str | None:
    """The name of the last linear layer of a `model` on the host, whose outputs are the logits; None if it
    does not end with one. The model stays as it is."""
    training = model.training
    try:
        few = images.take(torch.zeros(1, dtype=torch.int64, device=images.y.device)).to(HOST)
        layer = last_layer(model.eval(), few, HOST, wanted_by="")
    except InputError:
        return None
    finally:
        model.train(training)
    return next(name for name, module in model.named_modules() if module is layer)


def freeze(model: nn.Module, images: Images) -> None:
    """Let only the last layer of a `model` on the host require gradients. InputError if it is not linear."""
    if (head := head_of(model, images)) is None:
        raise InputError(
            "start: only the last layer is to be trained, and this network does not end with a linear one: "
            "write layers: all, or choose an architecture such as resnet18"
        )
    for name, weights in model.named_parameters():
        weights.requires_grad_(name.rpartition(".")[0] == head)


def feature_size(model: nn.Module) -> int:
    """The length of the features of a model that ends with a linear layer; 0 if it has none. Nothing is
    computed: the layer that is defined last counts."""
    sizes = [layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    return sizes[-1] if sizes else 0


@torch.no_grad()
def features(model: nn.Module, layer: nn.Linear, images: Images, device: torch.device) -> Tensor:
    """The inputs of `layer` for `images` inside `model`: float32 N,D on `device`."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float())):
        for x, _ in feed(images, BATCH, device):
            model(x.contiguous(memory_format=torch.channels_last))
    return torch.cat(seen)


def feature(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """The inputs N,D of the layer of that name for float images `x`, as the model computes them in its mode,
    with their gradient."""
    seen: list[Tensor] = []
    with model.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        model(x)
    return seen[-1]


def class_means(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean of the vectors N,D of each class, K,D in float32; NaN for a class without any. A product of
    matrices: sums by index have no fixed order on a GPU."""
    with torch.autocast(vectors.device.type, enabled=False):
        members = F.one_hot(labels.to(vectors.device), classes).float()
        return (members.mT @ vectors.float()) / members.sum(0).unsqueeze(1)
