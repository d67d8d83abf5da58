"""Which layers of which networks this machine computes wrongly in bfloat16, at which image sizes; and what the
check costs.

    python benchmarks/precision.py [--device cuda] [--batch 16] [--quick]

Each architecture that opsctl ships, with its default fields, and torchvision's ResNet-18, at sizes from 8 to
224 pixels, square, narrow and wide; sizes that a network does not take are left out. Where a layer is wrong,
`precision: auto` is resolved too, and has to be float32. Then the check as a first training of ResNet-18,
WRN-28-10 and DenseNet-121 on CIFAR-10 pays for it (batches of 128 and 80 with gradients, of 500 without).
Verdicts kept on this machine are not used. Results are added to benchmarks/results/precision.jsonl, unless the
run is quick.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import record
import torch

from trainers import InputError, TrainSpec
from trainers.families import Architecture
from trainers.numerical_platform import numerical_platform
from trainers.precision import BatchSizes, failures, resolve

SQUARE = [(n, n) for n in (8, 16, 32, 64, 96, 128, 224)]
NARROW = [(64, 8), (64, 4), (64, 2), (32, 2), (16, 2), (32, 1), (224, 16)]
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


def survey(
    architecture: Architecture, size: tuple[int, int], batch: int, device: torch.device
) -> dict[str, Any] | None:
    """The layers that are wrong at one size, with what `precision: auto` comes to; None if the network takes
    no such images."""
    images = {
        "shape": (3, *size),
        "num_classes": 10,
        "sizes": BatchSizes(training=frozenset({batch})),
        "device": device,
    }
    try:
        wrong = failures(architecture, **images)
        auto = resolve(TrainSpec(architecture=architecture), **images)
    except (InputError, RuntimeError, ValueError, AssertionError):
        return None
    assert not wrong or auto.precision == "float32"
    return {"wrong": {layer: [v.error, v.part] for layer, v in wrong.items()}, "auto": auto.precision}


def main() -> None:
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--batch", type=int, default=16, help="images of the survey's batches")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["OPSCTL_CACHE"] = empty
        platform = numerical_platform(device).to_json()
        print(platform["name"])
        for architecture in shipped()[: 2 if args.quick else None]:
            found = {
                size: survey(architecture, size, args.batch, device)
                for size in SIZES[: 3 if args.quick else None]
            }
            tried = {f"{h}x{w}": one for (h, w), one in found.items() if one is not None}
            wrong = {size: one for size, one in tried.items() if one["wrong"]}
            name = (
                f"torchvision {TORCHVISION['name']}"
                if architecture.kind == "torchvision"
                else architecture.kind
            )
            print(f"{name}: {len(tried)} sizes, wrong at {', '.join(wrong) or 'none'}", flush=True)
            for size, one in wrong.items():
                for layer, (error, part) in one["wrong"].items():
                    print(f"    {size}: {layer}: {part}, {error:.3g}", flush=True)
            if not args.quick:
                told = {
                    size: {**one, "wrong": {n: [str(e), p] for n, (e, p) in one["wrong"].items()}}
                    for size, one in wrong.items()
                }
                record.append(
                    "precision",
                    {
                        "network": name,
                        "batch": args.batch,
                        "sizes": list(tried),
                        "found": told,
                        "platform": platform,
                    },
                )
        for spec in TIMED[: 1 if args.quick else None]:
            architecture, start = Architecture.model_validate(spec), time.perf_counter()
            wrong = failures(architecture, shape=(3, 32, 32), num_classes=10, sizes=CIFAR, device=device)
            took = time.perf_counter() - start
            print(f"{spec}: checked in {took:.1f} s, {len(wrong)} wrong", flush=True)
            if not args.quick:
                record.append(
                    "precision", {"network": spec, "seconds": took, "wrong": len(wrong), "platform": platform}
                )


if __name__ == "__main__":
    main()
