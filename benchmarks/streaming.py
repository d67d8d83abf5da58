"""Peak memory of building poisoned data sets of 20,000 images of 224 pixels, 3 GB each, from JPEG files.

    python benchmarks/streaming.py [--quick]

Each poison is built in a process of its own, as the task of a sweep builds it, on a store of its own. The memory is
the process's largest, with Python and torch, without pages of files, which the system takes back when it needs them;
beside it that of a process which imports the same and builds nothing. Results are added to
benchmarks/results/streaming.jsonl, unless the run is quick.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
from PIL import Image

from poisons import CraftContext, DataSpec, Store

SIDE, CLASSES = 224, 10
POISONS: dict[str, dict[str, Any]] = {
    "clean": {"kind": "clean"},
    "cuda": {"kind": "cuda", "kernel_size": 9, "blur": 0.06},
    "vuda": {"kind": "vuda"},
    "lsp": {"kind": "lsp"},
    "ar": {"kind": "ar", "response": 4.0},
    "ops": {"kind": "ops"},
    "random_noise": {"kind": "random_noise"},
    "random_noise, sample_wise": {"kind": "random_noise", "granularity": "sample_wise"},
}


def write_images(root: Path, number: int) -> None:
    """Smooth random images in folders of classes, as JPEG files."""
    gen = torch.Generator().manual_seed(0)
    for split, count in (("train", number), ("test", CLASSES)):
        for i in range(count):
            folder = root / split / str(i % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            small = torch.randint(256, (14, 14, 3), dtype=torch.uint8, generator=gen)
            Image.fromarray(small.numpy()).resize((SIDE, SIDE)).save(folder / f"{i}.jpg", quality=90)


def build(root: str, store: str, poison: dict[str, Any]) -> None:
    """Build a data set of all images."""
    spec = DataSpec.parse({"source": {"kind": "image_folder", "root": root}, "poison": poison}, "benchmark")
    Store(Path(store)).ensure(spec.pinned(), CraftContext(report=lambda _: None))


def nothing() -> None:
    """What a process costs that builds nothing."""


def peak(work: Callable[..., None], *given: Any) -> tuple[float, float]:
    """The largest memory in MB of a fresh process that does this work, and its seconds."""
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    start = time.monotonic()
    process = context.Process(target=_measured, args=(found, work, *given))
    process.start()
    process.join()
    return found.get(), time.monotonic() - start


def _measured(found: Any, work: Callable[..., None], *given: Any) -> None:
    torch.set_num_threads(1)
    most, ended = [anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            most.append(max(most.pop(), anonymous()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work(*given)
    ended.set()
    watcher.join()
    found.put(most[0])


def anonymous() -> float:
    """The memory of this process that no file backs, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def main() -> None:
    """Measure each poison, and print and record its memory."""
    args = record.parser(__doc__, data=False).parse_args()
    number = 100 if args.quick else 20_000
    base, _ = peak(nothing)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        write_images(root, number)
        for kind, poison in POISONS.items():
            with tempfile.TemporaryDirectory(dir=name) as store:
                most, seconds = peak(build, str(root), store, poison)
            row = {"poison": kind, "images": number, "MB": round(most), "MB of nothing": round(base)}
            row["seconds"] = round(seconds)
            print(row, flush=True)
            if not args.quick:
                record.append("streaming", row)


if __name__ == "__main__":
    main()
