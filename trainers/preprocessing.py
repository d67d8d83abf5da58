"""Defenses that change every training image once, each by itself: the base of filters and compressions."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from trainers.families import Defense, Report
from trainers.images import Images

CHUNK = 1000  # images that are on the device at a time


class Preprocessing(Defense):
    """Maps each training image to another one before training. Test images stay as they are, as published."""

    memorises: ClassVar[bool] = True

    @abstractmethod
    def change(self, x: Tensor) -> Tensor:
        """uint8 N,C,H,W in 0..255, changed; the image in row i depends on that of row i only."""

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        done = torch.empty_like(images.x, memory_format=torch.contiguous_format)
        for i, some in enumerate(images.chunks(CHUNK)):
            done[i * CHUNK : i * CHUNK + len(some)] = self.change(some.x.to(device)).to(done.device)
            report({"prepared": min(1.0, (i + 1) * CHUNK / len(images))})
        return Images(done, images.y, images.num_classes)
