"""The response of the first convolution to an image: whether one position dominates all others (One-Pixel
Shortcut; Wu, Chen, Xie, Huang; ICLR 2023, Figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.evaluate import BATCH
from trainers.feed import feed
from trainers.flops import Work, tested
from trainers.images import Extent, Images, nearest_levels
from trainers.pictured import rounded
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import ImageMaps, ProbeView
from trainers.probes.pairs import check_pair_extents, check_pairs
from trainers.recipe import TrainSpec
from trainers.spec import InputError


class FirstLayer(Probe, kind="first_layer"):
    """The response of the first convolution, its mean magnitude over channels.

    Metric `peak_share`: the share of an image's response at its largest position, mean over images; 1 over
    the number of positions if all are equal. With sets, `<set>_at_change`: the share of a set's images (as
    many) whose largest response is where the filter sees a pixel that differs from the set `clean`. Fields
    `images` (`label`; `pixels` uint8 H,W,C; `response` H',W'; `channels` k,H',W', signed, the one with the
    largest magnitude first) and `filters` K,h,w,C. Costs a forward pass of `limit` images, and of as many of
    each set. InputError if the network has no convolution, or, with sets, one that pads or resizes images by
    itself.
    """

    on: Literal["train", "test"] = "train"
    """Which images: those trained on, or the clean test images."""
    limit: PositiveInt | None = 1000
    """Size of the class-balanced subset that is measured; null takes all."""
    pictured: PositiveInt = 4
    """Size of the class-balanced subset whose responses are stored for pictures."""
    channels: PositiveInt = 4
    """Strongest channels stored for each of these images."""
    smoke: ClassVar[dict[str, Any]] = {"limit": 8, "pictured": 2}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("peak_share",)

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("at_change",)

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Responses of the first convolution: an image, and the mean magnitude over channels; the "
            "largest is white.",
            picture=ImageMaps(
                kind="image_maps", shows="response of the first layer", images="images", filters="filters"
            ),
        )

    def work(self, examined: Examined) -> Work:
        images = examined.train if self.on == "train" else examined.test
        some = [one.at_most(self.limit) for one in (images, *examined.sets.values())]
        return tested(sum(some), examined.network)

    def check(self, names: Iterable[str]) -> None:
        given = tuple(names)
        if given and "clean" not in given:
            raise InputError(
                f"the probe {self.kind!r} compares images with clean ones, so with {given[0]!r} it needs a "
                "set 'clean': write sets: {ops: {poison: ops}, clean: {poison: clean}}"
            )

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        for name, images in sets.items() if "clean" in sets else ():
            check_pair_extents(images, sets["clean"], probe=self.kind, name=f"the set {name!r}")

    def check_images(self, train: Images, sets: Mapping[str, Images]) -> None:
        for name, images in sets.items():
            check_pairs(images, sets["clean"], probe=self.kind, name=f"the set {name!r}")

    def run(self, subject: Subject) -> Finding:
        model, device = subject.model, subject.device
        images = subject.train if self.on == "train" else subject.test
        shown = images.subset(self.pictured)
        conv = first_convolution(model, shown, device)
        some = responses(model, conv, images.subset(self.limit), device)
        maps = torch.cat(list(answers(model, conv, shown, device)))
        pictures = [
            {"label": int(label), "pixels": x.movedim(0, -1).tolist(), **self._picture(of)}
            for x, label, of in zip(nearest_levels(shown.x), shown.y, maps, strict=True)
        ]
        return Finding(
            metrics={"peak_share": peak_share(some).mean().item(), **self._at_change(subject, conv)},
            fields={"images": pictures, "filters": rounded(conv.weight.detach().movedim(1, -1))},
        )

    def _at_change(self, subject: Subject, conv: nn.Conv2d) -> dict[str, float]:
        found = {}
        for name, images in subject.sets.items():
            check_pairs(images, subject.sets["clean"], probe=self.kind, name=f"the set {name!r}")
            some, clean = images.subset(self.limit), subject.sets["clean"].subset(self.limit)
            response = responses(subject.model, conv, some, subject.device)
            change = changed(some, clean, conv)
            if response.shape != change.shape:
                raise InputError(
                    f"the probe {self.kind!r} cannot locate changes in this network, which pads or resizes "
                    "images before its first convolution: leave the sets out"
                )
            found[f"{name}_at_change"] = at_change(response, change).mean().item()
        return found

    def _picture(self, maps: Tensor) -> dict[str, Any]:
        """The stored fields of one image's response, C,H',W'."""
        strongest = maps.abs().mean((1, 2)).argsort(descending=True, stable=True)[: self.channels]
        return {"response": rounded(maps.abs().mean(0)), "channels": rounded(maps[strongest])}


@torch.no_grad()
def first_convolution(model: nn.Module, images: Images, device: torch.device) -> nn.Conv2d:
    """The first convolution in the forward pass of `model`, which is in eval mode."""
    met: list[nn.Conv2d] = []
    with ExitStack() as hooks:
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
            hooks.enter_context(conv.register_forward_hook(lambda module, _, __: met.append(module)))
        x, _ = next(iter(feed(images, 1, device)))
        model(x)
    if not met:
        raise InputError(
            "the probe 'first_layer' shows the response of the first convolution, and this network has none: "
            "leave the probe out, or choose an architecture with one, such as resnet18"
        )
    return met[0]


@torch.no_grad()
def answers(model: nn.Module, conv: nn.Conv2d, images: Images, device: torch.device) -> Iterator[Tensor]:
    """The outputs of `conv` for `images` inside `model`: float32 N,C,H',W', a batch at a time."""
    outputs: list[Tensor] = []
    with conv.register_forward_hook(lambda _, __, out: outputs.append(out)):
        for x, _ in feed(images, BATCH, device):
            model(x.contiguous(memory_format=torch.channels_last))
            yield outputs[0].float()
            outputs.clear()


def responses(model: nn.Module, conv: nn.Conv2d, images: Images, device: torch.device) -> Tensor:
    """The mean magnitude over channels of the outputs of `conv`: float64 N,H',W' on the host."""
    return torch.cat([maps.abs().double().mean(1).cpu() for maps in answers(model, conv, images, device)])


def peak_share(response: Tensor) -> Tensor:
    """For N,H,W: the share of each image's response at its largest position: N. 1 over the number of
    positions if there is no response."""
    flat = response.flatten(1)
    share = flat.amax(1) / flat.sum(1)
    return torch.where(share.isfinite(), share, 1 / flat.shape[1])


def changed(images: Images, clean: Images, conv: nn.Conv2d) -> Tensor:
    """Where `conv` sees a pixel in which an image differs from the `clean` one: bool N,H',W' on the host."""
    at = [
        (a.x.cpu() != b.x.cpu()).any(1)
        for a, b in zip(images.chunks(BATCH), clean.chunks(BATCH), strict=True)
    ]
    ones = torch.ones(1, 1, *conv.kernel_size)
    padding = conv.padding if isinstance(conv.padding, str) else tuple(conv.padding)
    covered = [F.conv2d(a[:, None].float(), ones, None, conv.stride, padding, conv.dilation) for a in at]
    return torch.cat(covered)[:, 0] > 0.5


def at_change(response: Tensor, change: Tensor) -> Tensor:
    """For N,H,W: whether each image's largest response is where `change` is true; float64 N."""
    largest = response.flatten(1).argmax(1, keepdim=True)
    return change.flatten(1).gather(1, largest)[:, 0].double()
