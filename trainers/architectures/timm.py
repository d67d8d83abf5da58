"""Any network of timm, PyTorch Image Models (Wightman, 2019), by its name there."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from trainers.architectures.library import LibraryModel
from trainers.meta import Shape


class Timm(LibraryModel, kind="timm"):
    """`timm.create_model(name, **options)`, untrained. A network for one image size is given the size of the
    images, unless `options` have `img_size`."""

    package = "timm"
    settled = frozenset(
        {"num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
        | {"checkpoint_path"}
    )
    hint = "{img_size: 32, patch_size: 4}"
    smoke: ClassVar[dict[str, Any]] = {"name": "test_resnet"}

    @classmethod
    def names(cls) -> list[str]:
        return cls.library().list_models()

    def create(self, options: dict[str, Any], *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return self.made(self.name, options, shape, pretrained=False, num_classes=num_classes)

    def made(self, name: str, options: dict[str, Any], shape: Shape, **more: Any) -> nn.Module:
        """timm's network of that name for images of `shape` (C, H, W); timm may raise any error."""
        timm = self.library()
        size = {"img_size": shape[1:]} if timm.get_pretrained_cfg_value(name, "fixed_input_size") else {}
        return timm.create_model(name, in_chans=shape[0], **{**size, **options}, **more)
