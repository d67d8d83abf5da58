"""Adversarial augmentation (Qin, Gao, Zhao, Ye, Xu; ICCV workshops 2023) with augmentations of one's own."""

from __future__ import annotations

from pydantic import field_validator
from torch import Generator, Tensor, autocast

from trainers.augmentations.trivial_augment import TrivialAugment
from trainers.defenses.worst_version import WorstVersion
from trainers.families import Augmentation
from trainers.images import Extent


class AdversarialAugmentation(WorstVersion, kind="adversarial_augmentation"):
    """Augments each image several times, and minimises the largest loss of its versions.

    `ueraser` is the same with the augmentations of its paper. Those of `train.augmentations` come first, once
    for all versions.
    """

    augmentations: tuple[Augmentation, ...] = (TrivialAugment(),)
    """What makes a version of an image, in order."""

    @field_validator("augmentations")
    @classmethod
    def _of_single_images(cls, augmentations: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if not augmentations:
            raise ValueError(
                "without augmentations all versions are alike: write [trivial_augment], or use erm"
            )
        if mixing := [one.kind for one in augmentations if one.mixes]:
            raise ValueError(
                f"{mixing[0]} mixes images, whose losses cannot be compared: write it in train.augmentations"
            )
        return augmentations

    def check(self, images: Extent) -> None:
        for augment in self.augmentations:
            augment.check(images)

    def augmented(self, x: Tensor, y: Tensor, gen: Generator) -> Tensor:
        with autocast(x.device.type, enabled=False):
            for augment in self.augmentations:
                x, _ = augment(x, y, gen)
        return x
