"""Seconds per thousand images of the poisons that need no network, and the same image by image.

    python benchmarks/closed_form.py [--quick]

Image by image is how released code makes them: autoregressive noise value by value in raster order, each by a
convolution of its own, and filters by one convolution per image. Random images of 3x32x32 in 10 classes; AR's
coefficients are found before. Results are added to benchmarks/results/closed_form.jsonl, unless the run is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import record
import torch
from torch.nn import functional as F

from poisons import CraftContext, Poison
from poisons.perturbations.autoregression import CROP, Autoregression, begin
from poisons.perturbations.filtering import Filtering
from poisons.rng import rng
from trainers.gpu_profile import random_images
from trainers.images import Images

SHAPE, CLASSES, EACH = (3, 32, 32), 10, 20  # images made one by one


def ar_by_image(process: Autoregression, images: Images) -> None:
    """Each value of a signal is a convolution of its own, as in the release; then the image is changed."""
    c, h, w = images.shape
    for row, (x, label) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        start = torch.zeros((1, c, h + CROP, w + CROP), dtype=torch.float64)
        begin(start, [rng(process.seed, f"ar {row}")])
        signal, taps = start[0].float(), process.coefficients[label].float()[:, None]
        for i in range(h + CROP - 2):
            for j in range(w + CROP - 2):
                value = F.conv2d(signal[:, i : i + 3, j : j + 3], taps, groups=c)
                signal[:, i + 2, j + 2] = value.flatten()
        noise = signal[:, CROP:, CROP:]
        (x / 255 + noise / noise.norm() * process.eps).clamp(0, 1)


def cuda_by_image(filtering: Filtering, images: Images) -> None:
    """One convolution per image."""
    for x, label in zip(images.x, images.y.tolist(), strict=True):
        kernel = filtering.filters[label].float().expand(len(x), 1, -1, -1)
        out = F.conv2d(x.float()[None] / 255, kernel, padding=kernel.shape[-1] // 2, groups=len(x))
        (out / out.max() * 255).to(torch.uint8)


def timed(kind: str, settings: dict[str, Any], number: int, repeats: int) -> dict[str, Any]:
    """Seconds per thousand images of a poison: ours, and image by image where that is written above."""
    images, context = random_images(number, SHAPE, CLASSES), CraftContext(report=lambda _: None)
    crafted = Poison.parse({"kind": kind, **settings}, "benchmark").craft(images, seed=0, context=context)
    few, plain = images.take(torch.arange(EACH)), ONE_BY_ONE.get(kind, lambda *_: None)
    ours, theirs = record.interleave(lambda: crafted.apply(images), lambda: plain(crafted, few), repeats)
    row: dict[str, Any] = {"poison": kind, "unit": "seconds of 1000 images"}
    row["ours"] = record.spread([seconds * 1000 / number for seconds in ours])
    if kind in ONE_BY_ONE:
        row["image_by_image"] = record.spread([seconds * 1000 / EACH for seconds in theirs])
        row["ratio"] = round(row["image_by_image"]["median"] / row["ours"]["median"], 1)
    return row


ONE_BY_ONE: dict[str, Callable[..., None]] = {"ar": ar_by_image, "cuda": cuda_by_image}


def main() -> None:
    """Time each poison, and print and record the seconds."""
    args = record.parser(__doc__, data=False).parse_args()
    for kind, settings in {"ar": {"response": 4.0}, "cuda": {}, "vuda": {}, "lsp": {}}.items():
        row = timed(kind, settings, *((50, 1) if args.quick else (1000, 7)))
        print(row, flush=True)
        if not args.quick:
            record.append("closed_form", row)


if __name__ == "__main__":
    main()
