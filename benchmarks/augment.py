"""Images per second of each augmentation, against torchvision applied image by image.

    python benchmarks/augment.py [--device cuda] [--quick]

Ours begins with a batch of 128 images of 32x32x3 on the device, torchvision with a list of 128 uint8 tensors
or PIL images, whichever is faster, and both end with a float batch on the device. Each has one thread, as a
worker of a data loader has. For mixup and CutMix torchvision has a whole-batch version alone, with one draw
for all images; for the UDA policy it has none, so the rival is a loop over its functions. Ours and theirs are
timed in turn. Results are added to benchmarks/results/augment.jsonl, unless the run is quick.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import record
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from trainers.augmentations.uda_augment import IDENTITY, OPS, strengths
from trainers.families import Augmentation

N = 128
Transform = Callable[..., Any]


def uda(image: Any) -> Any:
    """UDA's policy on one image, by torchvision's functions."""
    table = UDA_STRENGTHS
    for _ in range(2):
        if random.random() < 0.5:
            op, level, negative = random.randrange(IDENTITY), random.randrange(1, 10), random.randrange(2)
            image = UDA[OPS[op]](image, table[negative][level][op])
    return image


def shifted(x: int, y: int, image: Any, strength: float) -> Any:
    shift = [int(strength) * x, int(strength) * y]
    return T.affine(image, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0], fill=GREY)


def sheared(x: int, y: int, image: Any, strength: float) -> Any:
    shear = [57.3 * strength * x, 57.3 * strength * y]
    return T.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, fill=GREY, center=[0, 0])


def cut(image: Any, strength: float) -> Any:
    """A grey square inside the image, which is a little less than UDA does."""
    size = int(strength)
    i, j = random.randrange(33 - size), random.randrange(33 - size)
    if isinstance(image, Image.Image):
        image = image.copy()
        image.paste((125, 123, 114), (j, i, j + size, i + size))
        return image
    return T.erase(image, i, j, size, size, GREY_PIXEL)


GREY = [125.0, 123.0, 114.0]
GREY_PIXEL = torch.tensor(GREY).to(torch.uint8).view(3, 1, 1)
UDA_STRENGTHS = strengths(torch.device("cpu")).tolist()
UDA: dict[str, Callable[[Any, float], Any]] = {
    "invert": lambda image, _: T.invert(image),
    "cutout": cut,
    "sharpness": T.adjust_sharpness,
    "contrast": T.adjust_contrast,
    "color": T.adjust_saturation,
    "brightness": T.adjust_brightness,
    "shear_x": partial(sheared, 1, 0),
    "shear_y": partial(sheared, 0, 1),
    "translate_x": partial(shifted, 1, 0),
    "translate_y": partial(shifted, 0, 1),
    "rotate": lambda image, s: T.rotate(image, s, fill=GREY),
    "auto_contrast": lambda image, _: T.autocontrast(image),
    "posterize": lambda image, s: T.posterize(image, int(s)),
    "equalize": lambda image, _: T.equalize(image),
    "solarize": T.solarize,
}
BILINEAR = v2.InterpolationMode.BILINEAR
PER_IMAGE: dict[str, Transform] = {
    "affine": v2.RandomAffine(10, shear=10, scale=(0.8, 1.2)),
    "flip_crop": v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4)]),
    "cutout": v2.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1)),
    "rand_augment": v2.RandAugment(),
    "trivial_augment": v2.TrivialAugmentWide(),
    "uda_augment": uda,
    "color_jitter": v2.ColorJitter(0.2, 0.2, 0.2),
    "rotate": v2.RandomRotation(15, interpolation=BILINEAR),
}
PER_BATCH: dict[str, Transform] = {
    "mixup": v2.MixUp(num_classes=10),
    "cutmix": v2.CutMix(num_classes=10),
}


def main() -> None:
    """Times every augmentation that has a rival and prints a table."""
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    repeats = 3 if args.quick else args.repeats
    print(f"{'augmentation':<16}{'ours, images/s':>24}{'torchvision':>24}  {'on':<8}{'ratio':>7}")
    for kind in sorted(PER_IMAGE | PER_BATCH):
        row = measure(kind, torch.device(args.device), repeats)
        ours, theirs = (
            f"{_k(r['median'])} ({_k(r['min'])}..{_k(r['max'])})" for r in (row["ours"], row["theirs"])
        )
        print(f"{kind:<16}{ours:>24}{theirs:>24}  {row['rival']:<8}{row['ratio']:>6.1f}×", flush=True)
        if not args.quick:
            record.append("augment", row)


def measure(kind: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """Images per second of ours and of the faster rival, timed in turn."""
    raw = torch.randint(0, 256, (N, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = (raw.float() / 255).to(device)
    labels = (torch.arange(N) % 10).to(device)
    y = torch.eye(10, device=device)[labels]
    gen = torch.Generator(device).manual_seed(0)
    ours = partial(Augmentation.parse(kind, "benchmark"), x, y, gen)
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, rival in rivals(kind, raw, x, labels).items():
        a, b = record.interleave(partial(several, ours, 5), rival, repeats, device=device)
        found[name] = [5 * N / t for t in a], [N / t for t in b]
    best = max(found, key=lambda name: record.spread(found[name][1])["median"])
    mine, theirs = (record.spread(rates) for rates in found[best])
    ratio = mine["median"] / theirs["median"]
    head = {"augmentation": kind, "unit": "images/s", "batch": N, "device": str(device), "repeats": repeats}
    return head | {"ours": mine, "theirs": theirs, "rival": best, "ratio": round(ratio, 2)}


def rivals(
    kind: str, raw: torch.Tensor, x: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """torchvision's counterpart by what it works on."""
    if kind in PER_BATCH:
        return {"batch": partial(PER_BATCH[kind], x, labels)}
    tensors = list(raw)
    pictures = [T.to_pil_image(image) for image in raw]
    images = {"tensor": tensors} if kind == "cutout" else {"tensor": tensors, "PIL": pictures}
    return {name: partial(each, PER_IMAGE[kind], batch, x.device) for name, batch in images.items()}


def each(transform: Transform, images: list[Any], device: torch.device) -> torch.Tensor:
    """Every image through the transform, then a float batch on the device."""
    done = torch.stack([T.to_image(transform(image)) for image in images])
    return done.to(device).float() / 255


def several(run: Callable[[], object], times: int) -> None:
    """`run` a few times, since one call is short for a clock."""
    for _ in range(times):
        run()


def _k(rate: float) -> str:
    return f"{rate / 1000:.1f}k"


if __name__ == "__main__":
    main()
