"""Brings images to one size: resizes the shorter side, then crops the central square, bit for bit like
torchvision's Resize and CenterCrop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.spec import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Fit:
    """`resize`: the new length of the shorter side (bilinear, antialiased). `size`: the side of the central
    square that is then cropped. Without both, an image is unchanged."""

    resize: int | None = None
    size: int | None = None

    @property
    def in_words(self) -> list[str]:
        """How a fingerprint names these settings."""
        return [f"{name} {value}" for name, value in vars(self).items() if value is not None]

    def __call__(self, image: Image, name: str) -> Image:
        """The fitted image. InputError, with its name, if it is smaller than the square."""
        if self.resize is not None:
            image = image.resize(resized(image.size, self.resize), 2)  # 2: Pillow's BILINEAR
        if self.size is None:
            return image
        width, height = image.size
        if min(width, height) < self.size:
            raise InputError(
                f"{name} is {height}x{width}, too small to cut {self.size}x{self.size} from; "
                f"write resize: {self.size} or more beside size: {self.size}"
            )
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


AS_IT_IS = Fit()


def resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height (or height and width) scaled so that the shorter of them is `shorter`; the other is
    rounded down."""
    width, height = size
    longer = int(shorter * max(size) / min(size))
    return (shorter, longer) if width <= height else (longer, shorter)
