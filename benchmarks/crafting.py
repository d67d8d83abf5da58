"""Seconds that crafting takes, without the writing of poisoned images, and how many operations a second it reaches.

    python benchmarks/crafting.py [--device cuda] [--quick]

500 digits of 3x32x32 (10 classes), networks of a ResNet-18 of width 16, surrogates of 5 epochs, few steps: see
SETTINGS; a poison that is not there has its defaults. One thread. `opsctl kinds poison` says how much more the
defaults compute. Results are added to benchmarks/results/crafting.jsonl, unless the run is quick.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import record
import torch

from poisons import CraftContext, Poison
from poisons.sources.digits import Digits
from trainers.images import Images

NUMBER, SHAPE, CLASSES = 500, (3, 32, 32), 10
NETWORK = {"kind": "resnet18", "width": 16}
SURROGATE = {"architecture": NETWORK, "epochs": 5, "batch_size": 64, "precision": "float32"}
AGAINST = {"surrogate": SURROGATE, "steps": 10}
SETTINGS: dict[str, dict[str, Any]] = {
    "em": {"generator": NETWORK, "max_rounds": 2, "stop_error": 0, "precision": "float32"},
    "rem": {"generator": NETWORK, "train_steps": 4, "steps": 2, "attack_steps": 2, "precision": "float32"},
    "mi_ue": {"generator": NETWORK, "epochs": 3, "precision": "float32"},
    "tap": {**AGAINST, "restarts": 1},
    "hypo": AGAINST,
    "sep": {**AGAINST, "steps": 3, "checkpoints": 5},
    "dune": {**AGAINST, "shift_images": 20, "particles": 3, "rounds": 3},
    "photoguard": {"vae_epochs": 3, "steps": 20},
}
LEFT_OUT = ("clean", "imported")


def measured(kind: str, images: Images, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Seconds of one crafting, after one of a few images, and what it computes."""
    member = Poison.registry[kind]
    poison = member.parse(member.smoke if quick else SETTINGS.get(kind, {}), "benchmark")
    context = CraftContext(device=device, report=lambda _: None)
    member.parse(member.smoke, "benchmark").craft(images.subset(100), seed=0, context=context)
    seconds = record.seconds(partial(poison.craft, images, seed=0, context=context), device)
    done = poison.work(len(images), shape=SHAPE, num_classes=CLASSES).flops
    row: dict[str, Any] = {"poison": kind, "images": len(images), "seconds": round(seconds, 3)}
    if done:
        row |= {"tflop": round(done / 1e12, 4), "gflops": round(done / seconds / 1e9, 1)}
    return row


def main() -> None:
    """Time every poison, and print and record the seconds."""
    args = record.parser(__doc__, data=False).parse_args()
    torch.set_num_threads(1)
    digits = Digits(size=32).open("train")
    images = digits.take(torch.arange(len(digits.y))).subset(100 if args.quick else NUMBER)
    for kind in (kind for kind in Poison.registry if kind not in LEFT_OUT):
        row = measured(kind, images, torch.device(args.device), quick=args.quick)
        print(row, flush=True)
        if not args.quick:
            record.append("crafting", row)


if __name__ == "__main__":
    main()
