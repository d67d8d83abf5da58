"""The clean test accuracy that a recipe reaches on CIFAR-10.

    python benchmarks/accuracy.py --data DIR --device cuda               # ResNet-18, the paper's 200 epochs
    python benchmarks/accuracy.py --data DIR --width 16 --epochs 12 --schedule one_cycle   # two processors

`--width`, `--epochs`, `--limit` and `--schedule` make it smaller, and the result says so. Results, one line a
seed, are added to benchmarks/results/accuracy.jsonl, unless the run is quick.
"""

from __future__ import annotations

import record
import torch
from data import cifar10

from trainers import TrainSpec
from trainers.trial import Trial

PAPER = 0.9401  # One-Pixel Shortcut paper, Table 2: ResNet-18 on clean CIFAR-10


def main() -> None:
    """Trains, once a seed, and says how it went."""
    parser = record.parser(__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--schedule", default="multi_step")
    parser.add_argument("--limit", type=int, help="class-balanced training images (default: all 50,000)")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    architecture = {"kind": "resnet18", "width": args.width}
    recipe = {"architecture": architecture, "epochs": args.epochs, "schedule": args.schedule}
    train, test = cifar10(args.data, "train", args.limit), cifar10(args.data, "test")
    for seed in range(args.seeds):
        trial = Trial(train=TrainSpec.parse(recipe, "benchmark"), seed=seed)
        _, result = trial.run(
            train, test, device=torch.device(args.device), report=lambda row: print(row, flush=True)
        )
        found = {
            name: result["metrics"][name] for name in ("test/clean_acc", "test/peak_clean_acc", "train/acc")
        }
        row = {
            **recipe,
            "seed": seed,
            "images": len(train),
            "precision": result["precision"],
            "seconds": result["seconds"],
        }
        print(
            f"seed {seed}: {found}, {result['seconds']:.0f} s; the paper's full recipe: {PAPER}", flush=True
        )
        if not args.quick:
            record.append("accuracy", {**row, **found, "paper": PAPER, "device": args.device})


if __name__ == "__main__":
    main()
