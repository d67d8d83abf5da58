"""Convolution-based unlearnable data, CUDA (Sadasivan, Soltanolkotabi, Feizi; CVPR 2023), with controls."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from poisons.base import CraftContext, Poison
from poisons.perturbations.filtering import LARGEST, Filtering, Rounding
from trainers.images import Extent, Images
from trainers.spec import InputError

Filter = np.ndarray[Any, np.dtype[np.float64]]


class Cuda(Poison, kind="cuda"):
    """Blurs every image with the random filter of its class: values in [0, blur], and a 1 at a random place.

    The filters are those of the released code for the same seed. `universal` blurs all classes alike, which
    shows that blur by itself is no poison; `permuted` gives each class the filter of the next one.
    """

    published: ClassVar[str] = "CVPR 2023"
    kernel_size: Annotated[int, Field(ge=3, le=LARGEST)] = 3
    """Side of the filters in pixels, odd; published: 3 for 32 pixels, 9 for 224."""
    blur: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Largest value besides the 1 (paper: p_b); published: 0.3 for 3x3, 0.06 for 9x9."""
    filters: Literal["by_class", "universal", "permuted"] = "by_class"
    """Which filter a class gets: its own, that of class 0, or that of the next class."""
    rounding: Rounding = "truncate"
    """How values become levels; the release truncates."""

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"a filter needs a middle, so its side is odd; found {size}; write {size + 1}")
        return size

    def check(self, clean: Extent) -> None:
        check_filter(self.kind, (self.kernel_size, self.kernel_size), clean)

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Filtering:
        self.check(clean.extent)
        drawn = random_filters(clean.num_classes, self.kernel_size, self.blur, seed)
        if self.filters == "universal":
            drawn = drawn[:1].expand_as(drawn).contiguous()
        elif self.filters == "permuted":
            drawn = drawn.roll(-1, 0)
        return Filtering(drawn, self.rounding)


def random_filters(number: int, size: int, blur: float, seed: int) -> Tensor:
    """The filters of the release for a seed, float64 `number`,`size`,`size`, in its order of draws: three
    filters for each class, of which it uses the first, then the row and the column of the 1."""
    draw = np.random.RandomState(seed % 2**32)
    found = []
    for _ in range(number):
        one: Filter = draw.uniform(0, blur, (3, 1, size, size))[0, 0]
        row = draw.randint(size)
        one[row, draw.randint(size)] = 1.0
        found.append(torch.from_numpy(one.copy()))
    return torch.stack(found)


def check_filter(kind: str, size: tuple[int, int], clean: Extent) -> None:
    """InputError if a filter is larger than the images."""
    if any(side > whole for side, whole in zip(size, clean.shape[1:], strict=True)):
        found = "x".join(map(str, clean.shape[1:]))
        raise InputError(
            f"{kind}: a filter of {size[0]}x{size[1]} is larger than images of {found}: write a smaller one"
        )
