"""Images per second of defenses that change images, against what released code does: a loop over the images with
Pillow, numpy and scipy, or its batches.

    python benchmarks/defenses.py [--device cuda] [--quick]

Ours begins with a batch of 500 images of 32x32x3 on the device, the loop with a list of 500 numpy arrays; both end with
the changed batch on the device. Each has one thread. `adversarial_augmentation` makes one version of each image, the
loop with torchvision's TrivialAugment. Released code of `ueraser` calls kornia on batches (left out
unless it is installed), that of `orthogonal_projection` reads images through a DataLoader, here 2,000, and that of `dat`
passes them class by class through a network, here 100 through a ResNet-18 of width 16. Ours and theirs are timed in
turn. Results are added to benchmarks/results/defenses.jsonl, unless the run is quick.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import record
import scipy.fft
import scipy.ndimage
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import TrivialAugmentWide

from trainers.defenses.adversarial_augmentation import AdversarialAugmentation
from trainers.defenses.bit_depth import BitDepth
from trainers.defenses.coin import Coin
from trainers.defenses.dat import MOST, Dat
from trainers.defenses.gaussian_blur import GaussianBlur
from trainers.defenses.grayscale import Grayscale
from trainers.defenses.jpeg import Jpeg
from trainers.defenses.low_pass import LowPass
from trainers.defenses.median_filter import MedianFilter
from trainers.defenses.orthogonal_projection import OrthogonalProjection
from trainers.defenses.rsk_ff import RskFf
from trainers.defenses.ueraser import INTENSITY, ROUGHNESS, Ueraser
from trainers.defenses.worst_version import WorstVersion
from trainers.families import Architecture, Defense
from trainers.images import Images
from trainers.preprocessing import Preprocessing

N, SIZE = 500, 32
Pixels = np.ndarray
Loop = Callable[[Pixels], Pixels]
TRIVIAL = TrivialAugmentWide()


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
    (AdversarialAugmentation(), lambda image: np.asarray(TRIVIAL(Image.fromarray(image)))),
]


def ours(defense: Defense, levels: Tensor, gen: torch.Generator) -> Tensor:
    if isinstance(defense, Preprocessing):
        return defense.change(levels)
    x = levels.float() / 255
    y = torch.zeros((len(x), 2), device=x.device)
    if isinstance(defense, WorstVersion):
        return defense.augmented(x, y, gen)
    return defense.perturb(nn.Identity(), x, y, gen)


def looped(change: Loop, images: list[Pixels], device: str) -> Tensor:
    return torch.from_numpy(np.stack([change(image) for image in images])).to(device)


Row = tuple[str, int, Callable[[], Tensor], Callable[[], Tensor]]  # kind, images, ours, theirs


def rows(device: str, gen: torch.Generator) -> Iterator[Row]:
    levels = torch.randint(256, (N, 3, SIZE, SIZE), dtype=torch.uint8, device=device, generator=gen)
    images = [*levels.permute(0, 2, 3, 1).cpu().numpy()]
    for defense, change in LOOPS:
        yield defense.kind, N, partial(ours, defense, levels, gen), partial(looped, change, images, device)
    if importlib.util.find_spec("kornia"):
        yield ueraser(levels.float() / 255, gen)
    yield projection(device, gen)
    yield dat(levels[:100].float() / 255, gen)


def ueraser(x: Tensor, gen: torch.Generator) -> Row:
    from kornia import augmentation as kornia  # optional

    augment = nn.Sequential(
        kornia.RandomPlasmaBrightness(roughness=ROUGHNESS, intensity=INTENSITY, p=0.5),
        kornia.RandomPlasmaContrast(roughness=ROUGHNESS, p=0.5),
        kornia.RandomChannelShuffle(p=0.5),
        kornia.auto.TrivialAugment(),
    )
    y = torch.zeros((len(x), 2), device=x.device)
    return "ueraser", len(x), lambda: Ueraser().augmented(x, y, gen), lambda: augment(x)


def projection(device: str, gen: torch.Generator) -> Row:
    """The released loop converts each image by itself, as torchvision's data sets do."""
    n, classes, host = 2000, 10, torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=host)
    y = torch.arange(n) % classes
    batches = DataLoader(
        TensorDataset(x, y),
        batch_size=1024,
        collate_fn=lambda some: (
            torch.stack([a.float() / 255 for a, _ in some]),
            torch.stack([b for _, b in some]),
        ),
    )

    def released() -> Tensor:
        layer = nn.Linear(x[0].numel(), classes).to(device)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(20):
            for images, labels in batches:
                optimizer.zero_grad()
                F.cross_entropy(layer(images.flatten(1).to(device)), labels.to(device)).backward()
                optimizer.step()
        basis = torch.linalg.qr(F.normalize(layer.weight.detach()).mT).Q
        return torch.cat(
            [
                a.flatten(1).to(device) @ (torch.eye(len(basis), device=device) - basis @ basis.mT)
                for a, _ in batches
            ]
        )

    def ours() -> Tensor:
        images = Images(x, y, classes)
        where = torch.device(device)
        return OrthogonalProjection().prepare(images, device=where, gen=host, report=lambda row: None).x

    return "orthogonal_projection", n, ours, released


def dat(x: Tensor, gen: torch.Generator) -> Row:
    classes, defense = 10, Dat()
    network = Architecture.parse({"kind": "resnet18", "width": 16}, "benchmark")
    model = network.network(num_classes=classes, shape=(3, SIZE, SIZE), seed=0).to(x.device).train()
    y = torch.arange(len(x), device=x.device) % classes

    def released() -> Tensor:
        layers = [
            nn.ConvTranspose2d(1, 1, defense.size, padding=defense.size // 2).to(x.device)
            for _ in range(classes)
        ]
        members = [x[y == k] for k in range(classes)]
        for _ in range(defense.steps):
            for k, (layer, some) in enumerate(zip(layers, members, strict=True)):
                layer.zero_grad()
                logits = model(convolved(layer, some))
                F.cross_entropy(logits, torch.full((len(some),), k, device=x.device)).backward()
                with torch.no_grad():
                    for values in layer.parameters():
                        values += defense.step * values.grad
                        values.clamp_(-MOST, MOST)
        with torch.no_grad():
            return torch.cat([convolved(layer, some) for layer, some in zip(layers, members, strict=True)])

    return "dat", len(x), lambda: defense.perturb(model, x, F.one_hot(y, classes).float(), gen), released


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.flatten(0, 1).unsqueeze(1)).view_as(x)


def main() -> None:
    wanted = record.parser(__doc__, data=False).parse_args()
    torch.set_num_threads(1)
    gen = torch.Generator(wanted.device).manual_seed(0)
    found = []
    for kind, n, ours, theirs in rows(wanted.device, gen):
        a, b = record.interleave(ours, theirs, 1 if wanted.quick else 9, device=wanted.device)
        speeds = [record.spread([n / seconds for seconds in side]) for side in (a, b)]
        ratio = speeds[0]["median"] / speeds[1]["median"]
        found.append({"defense": kind, "ours": speeds[0], "loop": speeds[1], "ratio": ratio})
        shown = " against ".join(f"{s['median']:8.0f} ({s['min']:.0f}..{s['max']:.0f})" for s in speeds)
        print(f"{kind:21} {shown} images/s, {ratio:.2f}", flush=True)
    if not wanted.quick:
        record.append("defenses", {"rows": found})


if __name__ == "__main__":
    main()
