"""Any classification network of torchvision (Marcel, Rodriguez; ACM Multimedia 2010), by its name there."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from trainers.architectures.library import LibraryModel


class TorchvisionModel(LibraryModel, kind="torchvision"):
    """`torchvision.models.get_model(name, **options)`, untrained. Grey images are given to it three times,
    as red, green and blue."""

    package = "torchvision"
    settled = frozenset(("num_classes", "weights", "pretrained"))
    hint = "{aux_logits: false} or {image_size: 32}"
    smoke: ClassVar[dict[str, Any]] = {"name": "squeezenet1_1"}

    @classmethod
    def names(cls) -> list[str]:
        models = cls.library().models
        return models.list_models(module=models)

    def create(self, options: dict[str, Any], *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        models = self.library().models
        net = models.get_model(self.name, weights=None, num_classes=num_classes, **options)
        return nn.Sequential(ThreeChannels(), net) if shape[0] == 1 else net


class ThreeChannels(nn.Module):
    """N,1,H,W to N,3,H,W."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)
