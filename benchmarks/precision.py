"""Which layers of which networks this machine computes wrongly in bfloat16, at which image sizes; and what the
check costs.

    python benchmarks/precision.py [--device cuda] [--batch 4] [--threads 1] [--quick]

First what a first training of ResNet-18, WRN-28-10 and DenseNet-121 on CIFAR-10 pays for the check (batches of
128 and 80 with gradients, of 500 without). Then each architecture that opsctl ships, with its default fields,
and torchvision's ResNet-18, at sizes from 8 to 224 pixels, square, narrow and wide; sizes that a network does
not take are left out. Where a layer is wrong, `precision: auto` is resolved too, and has to be float32.
Verdicts kept on this machine are not used. Results are added to benchmarks/results/precision.jsonl, unless the
run is quick.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from typing import Any

import record
import torch

from trainers import InputError, TrainSpec
from trainers.families import Architecture
from trainers.meta import on_meta
from trainers.numerical_platform import numerical_platform
from trainers.precision import BatchSizes, failures, resolve

SQUARE = [(n, n) for n in (8, 16, 32, 64, 224)]
NARROW = [(64, 8), (64, 2), (32, 1), (16, 2)]
SIZES = SQUARE + NARROW + [(w, h) for h, w in NARROW]
TORCHVISION = {"kind": "torchvision", "name": "resnet18"}
CIFAR = BatchSizes(training=frozenset({128, 80}), evaluation=frozenset({500}))
TIMED = ({"kind": "resnet18"}, {"kind": "wide_resnet", "depth": 28, "width": 10}, {"kind": "densenet121"})


def shipped() -> list[Architecture]:
    """Every architecture whose fields have defaults, and torchvision's ResNet-18."""
    kinds = [
        kind
        for kind, member in sorted(Architecture.registry.items())
        if not any(field.is_required() for field in member.model_fields.values())
    ]
    return [Architecture.model_validate(spec) for spec in (*kinds, TORCHVISION)]


def wrong_layers(
    architecture: Architecture, size: tuple[int, int], batch: int, device: torch.device
) -> dict[str, str] | None:
    """The layers that are wrong at one size, with how; `precision: auto` is then float32. None if the network
    takes no such images."""
    sizes, shape = BatchSizes(training=frozenset({batch})), (3, *size)
    images = {"shape": shape, "num_classes": 10, "sizes": sizes, "device": device}
    if not taken(architecture, shape):
        return None
    found = failures(architecture, **images)
    auto = resolve(TrainSpec(architecture=architecture), **images)
    assert auto.precision == ("float32" if found else TrainSpec().arithmetic(device))
    return {layer: f"{verdict.part}, {verdict.error:.3g}" for layer, verdict in found.items()}


def taken(architecture: Architecture, shape: tuple[int, int, int]) -> bool:
    """Whether a network takes images of this shape."""
    try:
        network = on_meta(architecture, shape, 10).eval()
        network(torch.zeros(2, *shape, device="meta"))
    except (InputError, RuntimeError, ValueError, AssertionError):
        return False
    return True


def survey(architecture: Architecture, batch: int, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """A network at all sizes that it takes."""
    sizes = SIZES[: 3 if quick else None]
    found = {f"{h}x{w}": wrong_layers(architecture, (h, w), batch, device) for h, w in sizes}
    tried = {size: wrong for size, wrong in found.items() if wrong is not None}
    name = getattr(architecture, "name", architecture.kind)
    bad = {size: wrong for size, wrong in tried.items() if wrong}
    print(f"{name}: {len(tried)} sizes, wrong at {', '.join(bad) or 'none'}", flush=True)
    for size, wrong in bad.items():
        print(*(f"    {size}: {layer}: {how}" for layer, how in wrong.items()), sep="\n", flush=True)
    return {"network": name, "batch": batch, "sizes": list(tried), "wrong": bad}


def cost(spec: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What a first training of a network on CIFAR-10 pays for the check, in seconds."""
    start = time.perf_counter()
    wrong = failures(
        Architecture.model_validate(spec), shape=(3, 32, 32), num_classes=10, sizes=CIFAR, device=device
    )
    seconds = time.perf_counter() - start
    print(f"{spec}: checked in {seconds:.1f} s, {len(wrong)} wrong", flush=True)
    return {"network": spec, "seconds": seconds, "wrong": len(wrong)}


def main() -> None:
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--batch", type=int, default=4, help="images of the survey's batches")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    platform = numerical_platform(device).to_json()
    print(platform["name"])
    with tempfile.TemporaryDirectory() as empty:
        os.environ["OPSCTL_CACHE"] = empty
        timed, some = (TIMED[:1], shipped()[:2]) if args.quick else (TIMED, shipped())
        costs = (cost(spec, device) for spec in timed)
        surveys = (survey(architecture, args.batch, device, quick=args.quick) for architecture in some)
        for row in itertools.chain(costs, surveys):
            if not args.quick:
                record.append("precision", {**row, "platform": platform})


if __name__ == "__main__":
    main()
