"""Deep feature reweighting (Kirichenko, Izmailov, Wilson; ICLR 2023), with which Sandoval-Segura, Singla,
Geiping, Goldblum and Goldstein (NeurIPS 2023) show that networks trained on unlearnable data have useful
features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import nn

from trainers.evaluate import BATCH, correct, share
from trainers.features import feature_size, features, last_layer
from trainers.feed import feed
from trainers.flops import Work, tested
from trainers.images import Images
from trainers.meta import on_meta
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ProbeView
from trainers.softmax_regression import regression_work, softmax_regression


class DeepFeatureReweighting(Probe, kind="deep_feature_reweighting", version=2):
    """Fits the last layer anew to clean images, and tests the network with it.

    The set `clean` holds the clean images: `sets: {clean: {poison: clean, limit: 5000}}`. Metrics are the
    accuracies on the test images: `acc` with the network as it is; `adapted_acc` after BatchNorm's running
    statistics have been replaced by those of the clean images; `random_acc` with random weights, as a
    control. Costs four passes over the clean images and three over the test images.

    The layer is fitted from zero to images without augmentation, with the network in eval mode. The published
    code goes on from the trained layer, with augmentation and in train mode, which adapts BatchNorm in
    passing.
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    l2: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the squared norm in the fit of the last layer."""
    iterations: PositiveInt = 100
    """Most iterations of L-BFGS."""
    smoke: ClassVar[dict[str, Any]] = {"iterations": 10}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("acc", "adapted_acc", "random_acc")

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Accuracy on clean test images after the last layer was fitted to a few clean images.",
            units=dict.fromkeys(self.metrics, PERCENT),
        )

    def work(self, examined: Examined) -> Work:
        train, clean, test = examined.train, examined.sets["clean"].images, examined.test.images
        network = on_meta(examined.spec.architecture, train.shape, train.num_classes)
        fit = regression_work(clean, feature_size(network), train.num_classes, self.iterations)
        return tested(4 * clean, examined.network) + tested(3 * test, examined.network) + fit * 3

    def run(self, subject: Subject) -> Finding:
        clean = subject.sets["clean"]
        networks = {
            "acc": copy.deepcopy(subject.model),
            "adapted_acc": adapted(copy.deepcopy(subject.model), clean, subject.device),
            "random_acc": subject.untrained(),
        }
        return Finding({name: self._refitted(net, subject, clean) for name, net in networks.items()})

    def _refitted(self, net: nn.Module, subject: Subject, clean: Images) -> float:
        """The accuracy on the test images after the last layer of `net` was fitted to `clean`."""
        device = subject.device
        layer = last_layer(net, clean, device, wanted_by=f"the probe {self.kind!r}")
        x = features(net, layer, clean, device)
        with torch.autocast(device.type, enabled=False):
            weight, bias = softmax_regression(
                x, clean.y.to(device), clean.num_classes, l2=self.l2, iterations=self.iterations
            )
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        return share(correct(net, subject.test, device))


@torch.no_grad()
def adapted(net: nn.Module, images: Images, device: torch.device) -> nn.Module:
    """`net` in eval mode, with the running statistics of its BatchNorm layers averaged over full batches of
    `images`, or over all of them if there are fewer."""
    norms = [
        m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    full = torch.arange(len(images) // BATCH * BATCH or len(images))
    for x, _ in feed(images, BATCH, device, full.to(images.x.device)) if norms else ():
        net(x.contiguous(memory_format=torch.channels_last))
    return net.eval()
