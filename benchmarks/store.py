"""The store: write, verify, open and first batch of a data set of 150 MB, beside plain tensors in a file.

    python benchmarks/store.py [--quick]

Ours is the store as a sweep uses it: Arrow, written piece by piece, flushed, read back and digested, known by its
record. The plain one is torch.save of the same tensors and torch.load of all of them, as scripts do. Each is opened
in a fresh process with its file out of the page cache, and says how many bytes the disk gave it. Results are added to
benchmarks/results/store.jsonl, unless the run is quick.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch

from poisons import DataSpec, Store
from poisons.durable import flush
from poisons.store.store import damaged
from trainers import Images

BATCH = 128


def main() -> None:
    """Measures both and prints them."""
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    n = 500 if args.quick else 50_000
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=gen)
    images = Images(x, torch.randint(10, (n,), generator=gen), 10)
    with tempfile.TemporaryDirectory() as name:
        row = compare(images, Path(name), 2 if args.quick else args.repeats)
    for what, value in row.items():
        print(f"{what}: {value}")
    if not args.quick:
        record.append("store", row)


def compare(images: Images, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of each step, and bytes that opening and the first batch had the disk read."""
    images.save(folder / "source.pt")
    places = {name: str(folder / "source.pt") for name in ("train", "test")}
    spec = DataSpec.parse({"source": {"kind": "tensors", **places}}, "benchmark").pinned()
    steps: dict[str, list[float]] = {}
    for turn in range(repeats):
        store, file = Store(folder / f"store-{turn}"), folder / f"plain-{turn}.pt"
        note(steps, "write, ours", store.ensure, spec)
        note(steps, "write, plain", save, images, file)
        note(steps, "verify, ours", damaged, store.path(spec))
        for name, seconds in fresh(
            _open_ours, store.path(spec) / "data.arrow", str(store.root), spec
        ).items():
            steps.setdefault(f"{name}, ours", []).append(seconds)
        for name, seconds in fresh(_open_plain, file, str(file)).items():
            steps.setdefault(f"{name}, plain", []).append(seconds)
        file.unlink()
    spreads = {name: record.spread([round(value, 5) for value in values]) for name, values in steps.items()}
    ratio = statistics.median(steps["open, plain"]) / statistics.median(steps["open, ours"])
    return {"images": len(images), "megabytes": images.x.nbytes / 1e6, **spreads, "open, plain/ours": ratio}


def save(images: Images, file: Path) -> None:
    images.save(file)
    flush(file)


def note(steps: dict[str, list[float]], name: str, work: Any, *arguments: Any) -> None:
    start = time.perf_counter()
    work(*arguments)
    steps.setdefault(name, []).append(time.perf_counter() - start)


def fresh(job: Any, file: Path, *arguments: Any) -> dict[str, float]:
    """What a fresh process measures that finds `file` on the disk only."""
    flush(file)
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(job, arguments))


def _open_ours(root: str, spec: DataSpec) -> dict[str, float]:
    store = Store(root)
    return _timed(lambda: store.load(spec))


def _open_plain(file: str) -> dict[str, float]:
    def load() -> Images:
        found = torch.load(file, weights_only=True)
        return Images(found["x"], found["y"], found["num_classes"])

    return _timed(load)


def _timed(load: Any) -> dict[str, float]:
    """Opening, then one random batch as floats; and the megabytes that each had the disk read."""
    before, start = _read(), time.perf_counter()
    images = load()
    opened, after = time.perf_counter() - start, _read()
    start = time.perf_counter()
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:BATCH]
    (images.x[rows].float() / 255).sum()
    batch = time.perf_counter() - start
    return {
        "open": opened,
        "first batch": batch,
        "megabytes read by open": (after - before) / 1e6,
        "megabytes read by first batch": (_read() - after) / 1e6,
    }


def _read() -> int:
    """Bytes that this process had a disk read; Linux tells."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


if __name__ == "__main__":
    main()
