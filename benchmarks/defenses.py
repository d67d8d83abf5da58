"""Images per second of defenses that change images, against a loop over the images with Pillow, numpy and scipy, as
released code has it.

    python benchmarks/defenses.py [--device cuda] [--quick]

Ours begins with a batch of 500 images of 32x32x3 on the device, the loop with a list of 500 numpy arrays; both end with
the changed batch on the device. Each has one thread. Ours and the loop are timed in turn. Results are added to
benchmarks/results/defenses.jsonl, unless the run is quick.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import record
import scipy.fft
import scipy.ndimage
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn

from trainers.defenses.bit_depth import BitDepth
from trainers.defenses.coin import Coin
from trainers.defenses.gaussian_blur import GaussianBlur
from trainers.defenses.grayscale import Grayscale
from trainers.defenses.jpeg import Jpeg
from trainers.defenses.low_pass import LowPass
from trainers.defenses.median_filter import MedianFilter
from trainers.defenses.rsk_ff import RskFf
from trainers.families import Defense
from trainers.preprocessing import Preprocessing

N, SIZE = 500, 32
Pixels = np.ndarray
Loop = Callable[[Pixels], Pixels]


def jpeg(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=10)
    return np.asarray(Image.open(file))


def low_pass(image: Pixels) -> Pixels:
    spectrum = scipy.fft.dctn(image.astype(np.float32), axes=(0, 1), norm="ortho")
    kept = int(len(image) * 0.3)
    spectrum[kept:], spectrum[:, kept:] = 0, 0
    return scipy.fft.idctn(spectrum, axes=(0, 1), norm="ortho")


def coin(image: Pixels) -> Pixels:
    h, w, c = image.shape
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    places = [rows + np.random.uniform(-2, 2, (h, w)), columns + np.random.uniform(-2, 2, (h, w))]
    changed = [scipy.ndimage.map_coordinates(image[..., k], places, order=1, mode="wrap") for k in range(c)]
    return np.stack(changed, -1)


def rsk_ff(image: Pixels) -> Pixels:
    centre = np.random.normal(2.5, 0.1)
    kernel = np.zeros((3, 3))
    kernel[1, 1] = centre
    for place in ((0, 1), (1, 0), (1, 2), (2, 1)):
        kernel[place] = -np.random.normal((centre - 1) / 4, 0.1)
    x = image / np.float32(255)
    sharp = np.stack([scipy.ndimage.correlate(x[..., k], kernel)[1:-1, 1:-1] for k in range(3)], -1)
    padded = np.pad(low_pass(sharp.clip(0, 1)).clip(0, 1), ((4, 4), (4, 4), (0, 0)))
    i, j = np.random.randint(7, size=2)
    return padded[i : i + SIZE, j : j + SIZE]


LOOPS: list[tuple[Defense, Loop]] = [
    (Grayscale(), lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB"))),
    (BitDepth(), lambda image: np.asarray(ImageOps.posterize(Image.fromarray(image), 2))),
    (Jpeg(), jpeg),
    (GaussianBlur(), lambda image: scipy.ndimage.gaussian_filter(image, (1, 1, 0), mode="mirror")),
    (MedianFilter(), lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(3)))),
    (LowPass(), low_pass),
    (Coin(), coin),
    (RskFf(), rsk_ff),
]


def ours(defense: Defense, levels: Tensor, gen: torch.Generator) -> Tensor:
    if isinstance(defense, Preprocessing):
        return defense.change(levels)
    x = levels.float() / 255
    return defense.perturb(nn.Identity(), x, torch.zeros((len(x), 2), device=x.device), gen)


def looped(change: Loop, images: list[Pixels], device: str) -> Tensor:
    return torch.from_numpy(np.stack([change(image) for image in images])).to(device)


def main() -> None:
    wanted = record.parser(__doc__, data=False).parse_args()
    torch.set_num_threads(1)
    gen = torch.Generator(wanted.device).manual_seed(0)
    levels = torch.randint(256, (N, 3, SIZE, SIZE), dtype=torch.uint8, device=wanted.device, generator=gen)
    images = [*levels.permute(0, 2, 3, 1).cpu().numpy()]
    rows = []
    for defense, change in LOOPS:
        a, b = record.interleave(
            partial(ours, defense, levels, gen),
            partial(looped, change, images, wanted.device),
            1 if wanted.quick else 9,
            device=wanted.device,
        )
        speeds = [record.spread([N / seconds for seconds in side]) for side in (a, b)]
        ratio = speeds[0]["median"] / speeds[1]["median"]
        rows.append({"defense": defense.kind, "ours": speeds[0], "loop": speeds[1], "ratio": ratio})
        shown = " against ".join(f"{s['median']:8.0f} ({s['min']:.0f}..{s['max']:.0f})" for s in speeds)
        print(f"{defense.kind:14} {shown} images/s, {ratio:.2f}", flush=True)
    if not wanted.quick:
        record.append("defenses", {"rows": rows})


if __name__ == "__main__":
    main()
