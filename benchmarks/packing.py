"""Images per second of a whole GPU with 1, 2, 4 and 8 trials on it, compared with one trial.

    python benchmarks/packing.py [--device cuda] [--quick]

Every trial is a process of its own, as Ray starts them, that trains a ResNet-18, or a narrow one (width 16), on
random images; all begin at once, and the images trained while all of them run are added up. Also reported: the share of a
GPU that orchestrator/estimates/packing.py gives such a trial, from a probe of it. Results are added to
benchmarks/results/packing.jsonl, unless the run is quick. Needs a GPU, and ends with 2 where there is none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

import record
import torch

from orchestrator.estimates import packing
from orchestrator.storage.trial_spec import TrialSpec
from trainers.gpu_profile import advance, profile_trial, random_images, training_steps
from trainers.loop import Training
from trainers.recipe import repeatable

SHAPE, CLASSES = (3, 32, 32), 10
NETWORKS: dict[str, Any] = {
    "resnet18": {"kind": "resnet18"},
    "resnet18 width 16": {"kind": "resnet18", "width": 16},
}


def main() -> None:
    """Measure each network on a shared GPU, print its throughput, and add a line for each."""
    parser = record.parser(__doc__, data=False)
    parser.set_defaults(device="cuda")
    parser.add_argument("--seconds", type=float, default=20.0, help="on the clock, for each number of trials")
    parser.add_argument("--images", type=int, default=50_000)
    args = parser.parse_args()
    if torch.device(args.device).type != "cuda" or not torch.cuda.is_available():
        print("error: trials share a GPU, and there is none here: run this where CUDA is", file=sys.stderr)
        sys.exit(2)
    for name in NETWORKS:
        row = packed(name, args)
        rates = ", ".join(
            f"{k}: {rate:.0f} ({row['gain'][k]}x)" for k, rate in row["images_per_second"].items()
        )
        print(f"{name:<18} images/s by trials {rates}; share {row['share']:.4f}", flush=True)
        if not args.quick:
            record.append("packing", row)


def packed(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the GPU by number of trials on it, and the share that packing would give."""
    counts: Sequence[int] = (1, 2) if args.quick else (1, 2, 4, 8)
    seconds, images = (1.0, 512) if args.quick else (args.seconds, args.images)
    settings = {"train": {"architecture": NETWORKS[name]}}
    found = {str(k): together(k, settings, images, seconds, args.device) for k in counts}
    measured = probed(settings, images, args.device)
    return {
        "network": name,
        "unit": "images/s of the card",
        "device": args.device,
        "seconds": seconds,
        "images": images,
        "images_per_second": found,
        "gain": {k: round(rate / found["1"], 2) for k, rate in found.items()},
        **measured,
    }


def together(count: int, settings: dict[str, Any], images: int, seconds: float, device: str) -> float:
    """Images per second of several processes that train on one GPU."""
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(count), context.Queue()
    arguments = (start, rates, settings, images, seconds, device)
    workers = [context.Process(target=train, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    found = [rates.get(timeout=300 + 10 * seconds) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(found)


def train(
    start: Barrier, rates: Any, settings: dict[str, Any], images: int, seconds: float, device: str
) -> None:
    """One of the trials on the GPU: puts its images per second, while all of them ran, into `rates`."""
    place = torch.device(device)
    spec = TrialSpec.parse(settings, "benchmark").train
    with repeatable():
        data = random_images(images, SHAPE, CLASSES).to(place)
        training = Training.begin(spec, data, seed=0, device=place)
        steps = training_steps(training, data, place)
        advance(steps, 5, place)
        start.wait(timeout=300)
        taken, number, begin = 0.0, 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            taken += advance(steps, 5, place)
            number += 5
        start.wait(timeout=300)  # keep the GPU busy until all have been timed
    rates.put(number * spec.batch_size / taken)


def probed(settings: dict[str, Any], images: int, device: str) -> dict[str, Any]:
    """The GPU profile of a trial, and the share of the GPU that follows from it."""
    place = torch.device(device)
    profile = profile_trial(TrialSpec.parse(settings, "benchmark"), SHAPE, CLASSES, images, place)
    total = torch.cuda.get_device_properties(place).total_memory
    return {**vars(profile), "share": packing.share(profile.peak_bytes, total, profile.busy)}


if __name__ == "__main__":
    main()
