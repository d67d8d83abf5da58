"""Defenses that change every training image once, each by itself: the base of filters and compressions."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from trainers.families import Defense, Report
from trainers.images import Images

CHUNK = 2**22  # values that are on the device at a time


def per_chunk(images: Images) -> int:
    """How many images are prepared at a time."""
    return max(1, CHUNK // math.prod(images.shape))


class Preprocessing(Defense):
    """Maps each training image to another one before training. Test images stay as they are, as published."""

    @property
    def memorises(self) -> bool:
        return True

    @abstractmethod
    def change(self, x: Tensor) -> Tensor:
        """uint8 N,C,H,W in 0..255, changed; the image in row i depends on that of row i only."""

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        done = torch.empty_like(images.x, memory_format=torch.contiguous_format)
        size = per_chunk(images)
        for i, some in enumerate(images.chunks(size)):
            done[i * size : i * size + len(some)] = self.change(some.x.to(device)).to(done.device)
            report({"prepared": min(1.0, (i + 1) * size / len(images))})
        return Images(done, images.y, images.num_classes)
