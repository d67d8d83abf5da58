"""Prototypes, the mean features of each class, made visible (AutoProtoNet: Sandoval-Segura, Lawson; 2022,
arXiv 2204.00929)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from trainers.autoencoder import Decoder, decoder_work, fit_decoder
from trainers.features import class_means, feature_size, features, last_layer
from trainers.flops import Work, tested
from trainers.images import Extent, Images, to_float
from trainers.meta import on_meta
from trainers.pictured import pictured
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ImageMaps, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError

WEIGHTS = 11  # of a set's prototypes in a mixture: 0, 0.1, ... 1
BATCH = 128  # of the decoder's training
MOST = 10  # classes that are pictured


class Prototypes(Probe, kind="prototypes"):
    """Where the mean features of each class are, for the training images and for each set, and what they look
    like to a decoder that is trained on the network's features.

    Metrics: `acc`, the accuracy on the test images of the nearest prototype of the training images, and
    `pixel_acc`, the same with pixels in place of features; `decoder_mse`, the error of the decoder, and
    `mean_mse`, that of the mean image, in pixels of [0, 1]. For each set: `<set>_acc`, with its prototypes;
    `<set>_distance`, from those of the training images, over the mean distance of two classes. Prototypes
    can be refined, by mixing in those of a set: the curve `<set>` is the accuracy with 0, 10, ... 100 % of
    them on one half of the test images, `<set>_refined_acc` that of the best mixture on the other half, and
    `<set>_mixed` its weight.

    The network is not changed. Costs a forward pass of all these images, and `decoder_epochs` of a small
    decoder.
    """

    decoder_epochs: PositiveInt = 20
    """Epochs of the decoder's training on the features of the training images."""
    decoder_width: PositiveInt = 32
    """Channels of the decoder before its last layer."""
    decoder_lr: PositiveFloat = 1e-3
    """Learning rate of the decoder, with Adam."""
    limit: PositiveInt | None = 10_000
    """Size of a class-balanced subset of the training images and of each set; null takes all."""
    smoke: ClassVar[dict[str, Any]] = {"decoder_epochs": 1, "decoder_width": 4}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("acc", "pixel_acc", "decoder_mse", "mean_mse")

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("acc", "distance", "refined_acc", "mixed")

    def view(self, sets: Sequence[str]) -> ProbeView:
        shares = ("acc", "pixel_acc", *sets, *(f"{name}_{ending}" for name in sets for ending in SHARES))
        picture = ImageMaps(
            kind="image_maps",
            shows="Decoded prototypes of the training images and of each set, and how far they are from the "
            "mean image of the class.",
            images="images",
        )
        return ProbeView(
            says="Accuracy of the nearest mean features of a class, and what these look like to a decoder.",
            units=dict.fromkeys(shares, PERCENT),
            first_epoch=0,
            along="tenths from the set",
            picture=picture,
        )

    def work(self, examined: Examined) -> Work:
        train, spec = examined.train, examined.spec
        some = (train, *examined.sets.values())
        seen = examined.test.images + sum(images.at_most(self.limit) for images in some)
        network = on_meta(spec.architecture, train.shape, train.num_classes)
        return tested(seen, examined.network) + decoder_work(
            train.at_most(self.limit),
            train.shape,
            size=feature_size(network),
            width=self.decoder_width,
            epochs=self.decoder_epochs,
            batch_size=BATCH,
        )

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        if test.images < 2:
            raise InputError(f"the probe {self.kind!r} halves the test images, and there is only one")
        if train.at_most(self.limit) < 2:
            raise InputError(f"the decoder of the probe {self.kind!r} learns from two images or more")

    def run(self, subject: Subject) -> Finding:
        device, classes = subject.device, subject.train.num_classes
        train, test = subject.train.subset(self.limit), subject.test
        layer = last_layer(subject.model, train, device, wanted_by=f"the probe {self.kind!r}")

        def seen(images: Images) -> Tensor:
            return features(subject.model, layer, images, device)

        some = {name: images.subset(self.limit) for name, images in subject.sets.items()}
        theirs = {name: class_means(seen(one), one.y, classes) for name, one in some.items()}
        mine, tested = seen(train), seen(test)
        prototypes, labels = class_means(mine, train.y, classes), test.y.to(device)
        with torch.autocast(device.type, enabled=False):
            pixels, target = pixels_of(train, device), pixels_of(test, device)
            means = class_means(pixels.flatten(1), train.y, classes)
            decoder, error = self._decoder(mine, pixels, subject.seed)
            found = {
                "acc": nearest(prototypes, tested, labels),
                "pixel_acc": nearest(means, target.flatten(1), labels),
                "decoder_mse": error,
                "mean_mse": (pixels - pixels.mean(0)).square().mean().item(),
            }
            named, curves = {"training images": prototypes}, dict[str, list[float]]()
            for name, others in theirs.items():
                named[name] = others
                curves[name], refined = refinement(prototypes, others, tested, labels)
                found |= {
                    f"{name}_acc": nearest(others, tested, labels),
                    f"{name}_distance": moved(prototypes, others),
                    f"{name}_refined_acc": refined[0],
                    f"{name}_mixed": refined[1],
                }
            shown = self._pictures(decoder, named, means.view(classes, *train.shape))
        return Finding(found, curves, {"images": shown})

    def _decoder(self, vectors: Tensor, images: Tensor, seed: int) -> tuple[Decoder, float]:
        return fit_decoder(
            vectors,
            images,
            width=self.decoder_width,
            epochs=self.decoder_epochs,
            batch_size=BATCH,
            lr=self.decoder_lr,
            seed=seed,
        )

    @torch.no_grad()
    def _pictures(self, decoder: Decoder, named: dict[str, Tensor], means: Tensor) -> list[dict[str, Any]]:
        """Decoded prototypes of the first classes, class by class."""
        decoded = {name: decoder(found.nan_to_num()) for name, found in named.items()}
        return [
            pictured(f"{k}, {name}", images[k], means[k].nan_to_num())
            for k in range(min(MOST, len(means)))
            for name, images in decoded.items()
            if named[name][k].isfinite().all()
        ]


SHARES = ("acc", "refined_acc", "mixed")  # metrics of a set that are shares


def pixels_of(images: Images, device: torch.device) -> Tensor:
    """float32 N,C,H,W in [0, 1]."""
    return to_float(images.x.to(device)).contiguous()


def distances(prototypes: Tensor, vectors: Tensor) -> Tensor:
    """N,K distances; infinite to a prototype that is NaN."""
    return torch.cdist(vectors.double(), prototypes.double()).nan_to_num(torch.inf)


def nearest(prototypes: Tensor, vectors: Tensor, labels: Tensor) -> float:
    """The accuracy of the nearest prototype."""
    return (distances(prototypes, vectors).argmin(1) == labels).double().mean().item()


def moved(prototypes: Tensor, others: Tensor) -> float:
    """The mean distance of prototypes from those of the same class elsewhere, over the mean distance of two
    classes; of the classes that both have. 0 if there are no two classes."""
    there = (prototypes.isfinite() & others.isfinite()).all(1)
    a, b = prototypes[there].double(), others[there].double()
    apart = torch.cdist(a, a)
    between = apart.sum() / max(1, len(a) * (len(a) - 1))
    return ((a - b).norm(dim=1).mean() / between).item() if between > 0 else 0.0


def mixture(prototypes: Tensor, others: Tensor, weight: float) -> Tensor:
    """Prototypes into which others are mixed with a weight; what only one side has is that side's."""
    if weight in (0.0, 1.0):
        return others if weight else prototypes
    mixed = prototypes + weight * (others - prototypes)
    return torch.where(prototypes.isnan(), others, torch.where(others.isnan(), prototypes, mixed))


def refinement(
    prototypes: Tensor, others: Tensor, vectors: Tensor, labels: Tensor
) -> tuple[list[float], tuple[float, float]]:
    """The accuracies on every other vector, from the first, with prototypes into which 0, 10, ... 100 % of
    `others` are mixed; and on the remaining ones that of the first best mixture, with its weight."""
    curve, rest = list[float](), list[float]()
    for i in range(WEIGHTS):
        mixed = mixture(prototypes, others, i / (WEIGHTS - 1))
        curve.append(nearest(mixed, vectors[::2], labels[::2]))
        rest.append(nearest(mixed, vectors[1::2], labels[1::2]))
    best = max(range(WEIGHTS), key=lambda i: curve[i])
    return curve, (rest[best], best / (WEIGHTS - 1))
