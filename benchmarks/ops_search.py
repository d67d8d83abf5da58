"""The search of One-Pixel Shortcut: ours, and candidate by candidate as the released code does it.

    python benchmarks/ops_search.py --data DIR [--quick]

Both search CIFAR-10's training images, in turn, and must find the same pixels; ours begins at a store's file, the
plain one has its images in memory. Then: memory, as the highest resident size of a fresh process less that of
one which has only opened (ours) or loaded (plain) the images; the time against that of going over the images
once; how time and memory grow with the number of images, of pixels and of classes, on random images; and the
largest, 100 classes at 224 pixels from a file of `--gigabytes`. Results are added to
benchmarks/results/ops_search.jsonl, unless the run is quick.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from data import cifar10

from poisons.arrow import Writer, read_images
from poisons.methods.moments import moments
from poisons.methods.pixel_search import search
from trainers import Images

MEGA = 1e6
Pixels = list[tuple[int, int, list[int]]]


def ours(file: Path) -> Pixels:
    """One pixel of each class, from a store's file."""
    pixels = search(moments(read_images(file)), "released").facts()["pixels"]
    return [(pixel["row"], pixel["column"], pixel["colour"]) for pixel in pixels]


def plain(images: Images) -> Pixels:
    """The same as the released code finds it: class by class in float64, two expressions for each candidate."""
    _, height, width = images.shape
    found: Pixels = []
    for k in range(images.num_classes):
        x = images.x[images.y == k].permute(0, 2, 3, 1).numpy() / 255.0
        best, best_score = None, -1.0
        for row in range(height):
            for column in range(width):
                for v in range(8):
                    colour = np.array([v // 4, v // 2 % 2, v % 2], dtype=np.float64)
                    distance = np.abs(x[:, row, column] - colour)
                    score = distance.mean() / distance.std()
                    candidate = (row, column, [int(c) * 255 for c in colour])
                    if score >= best_score and candidate not in found:
                        best, best_score = candidate, score
        assert best is not None
        found.append(best)
    return found


def loaded(file: Path) -> Images:
    """All images in memory, read without a map, whose pages would count twice."""
    stored = read_images(file)
    x, at = torch.empty((len(stored), *stored.shape), dtype=torch.uint8), 0
    for chunk in stored.chunks(1024):
        x[at : at + len(chunk)] = chunk.x
        at += len(chunk)
    return Images(x, stored.y, stored.num_classes)


JOBS: dict[str, Callable[[Path], object]] = {
    "opened": read_images,
    "loaded": loaded,
    "ours": ours,
    "plain": lambda file: plain(loaded(file)),
}


def peak(job: str, file: Path) -> float:
    """The highest resident size of a fresh process that does this job, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (job, file))


def _peak(job: str, file: Path) -> float:
    JOBS[job](file)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage includes the peak of the parent process
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / MEGA
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGA if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Measures all four and prints them."""
    parser = record.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--gigabytes", type=float, default=3.0, help="of the largest file; twice that is needed"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = compare(args, Path(folder)) | {
            "growth": growth(args, Path(folder)),
            "largest": largest(args, Path(folder)),
        }
    for name, value in row.items():
        print(f"{name}: {value}")
    if not args.quick:
        record.append("ops_search", row)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours and the plain search of CIFAR-10: seconds, pixels, memory; and ours against reading."""
    images = cifar10(args.data, "train", 500 if args.quick else None)
    file = written(folder / "cifar10.arrow", images)
    found: dict[str, Pixels] = {}
    a, b = record.interleave(
        lambda: found.update(ours=ours(file)),
        lambda: found.update(plain=plain(images)),
        1 if args.quick else args.repeats,
    )
    alike = sum(mine == theirs for mine, theirs in zip(found["ours"], found["plain"], strict=True))
    return {
        "unit": "seconds",
        "images": len(images),
        "ours": record.spread(a),
        "plain": record.spread(b),
        "ratio": round(statistics.median(b) / statistics.median(a), 1),
        "alike": f"{alike} of {images.num_classes} classes",
        "memory": memory(file, images.x.numel() / MEGA),
        "reading": reading(args, file),
    }


def memory(file: Path, size: float) -> dict[str, Any]:
    """Peaks in MB; growth over what was there before, in sizes of the data set."""
    peaks = {job: peak(job, file) for job in JOBS}
    growth = {"ours": peaks["ours"] - peaks["opened"], "plain": peaks["plain"] - peaks["loaded"]}
    return {
        "unit": "MB",
        "data": round(size, 1),
        **{job: round(value) for job, value in peaks.items()},
        "growth": {side: round(value / size, 2) for side, value in growth.items()},
    }


def reading(args: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Seconds of our search, in turn with three ways to go over the same images once."""
    stored = read_images(file)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(file),
        "torch's sum of the map": lambda: stored.x.sum(),
        "numpy's sum of the map": lambda: stored.x.numpy().sum(dtype=np.int64),
        "the file's chunks": lambda: sum(len(chunk) for chunk in stored.chunks(4096)),
    }
    rounds = [
        {name: record.seconds(way, torch.device("cpu")) for name, way in ways.items()}
        for _ in range(1 + (1 if args.quick else 7))
    ]
    return {name: record.spread([row[name] for row in rounds[1:]]) for name in ways}


def growth(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Random images of growing number, size and number of classes."""
    unit = 500 if args.quick else 50_000
    sizes = [32, 64] if args.quick else [32, 64, 128, 224]
    cases = [
        *({"images": unit * times, "pixels": 32, "classes": 10} for times in (1, 2, 4)),
        *({"images": unit // 5, "pixels": size, "classes": 10} for size in sizes),
        *({"images": unit, "pixels": 32, "classes": classes} for classes in (20, 50, 100)),
    ]
    return [measured(folder, repeats=1 if args.quick else 5, **case) for case in cases]


def largest(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """100 classes at 224 pixels."""
    images = 300 if args.quick else int(args.gigabytes * 1e9) // (3 * 224**2)
    return measured(folder, images=images, pixels=224, classes=100, repeats=1)


def measured(folder: Path, *, images: int, pixels: int, classes: int, repeats: int) -> dict[str, Any]:
    """Our search of random images in a file: seconds, and seconds a GB; the process's peak in MB."""
    file, rng = folder / "random.arrow", np.random.default_rng(0)
    with Writer(file) as writer:
        for rows in torch.arange(images).split(256):
            x = rng.integers(0, 256, (len(rows), 3, pixels, pixels), dtype=np.uint8)
            y = rng.integers(0, classes, len(rows))
            writer.append(Images(torch.from_numpy(x), torch.from_numpy(y), classes), rows)
        writer.close()
    ours(file)
    times = [record.seconds(lambda: ours(file), torch.device("cpu")) for _ in range(repeats)]
    size, highest = images * 3 * pixels**2, peak("ours", file)
    row = {
        "images": images,
        "pixels": pixels,
        "classes": classes,
        "MB": round(size / MEGA, 1),
        "seconds": record.spread(times),
        "seconds a GB": round(statistics.median(times) / size * 1e9, 3),
        "peak MB": round(highest),
        "peak MB over opened": round(highest - peak("opened", file)),
    }
    file.unlink()
    return row


def written(file: Path, images: Images) -> Path:
    """The images as a store keeps them."""
    with Writer(file) as writer:
        writer.append(images, torch.arange(len(images)))
        writer.close()
    return file


if __name__ == "__main__":
    main()
