"""Seconds of a ten-step PGD attack: ours, and the same in float32 with gradients of the weights.

    python benchmarks/attack.py --data DIR [--device cuda] [--quick]

Both attack a ResNet-18 in eval mode, 128 images of CIFAR-10 at a time, within 8/255; the plain one calls
`backward`, which forms a gradient of every weight too, and works in float32. They are timed in turn. Then a
narrow ResNet-18, adversarially trained for a few epochs, is attacked by both from several random starts: the
robust accuracies must agree within the noise of the starts. Results are added to
benchmarks/results/attack.jsonl, unless the run is quick.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import record
import torch
from data import cifar10
from torch import Tensor, nn
from torch.nn import functional as F

from trainers import TrainSpec, fit
from trainers.attacks.pgd import Pgd
from trainers.images import to_float
from trainers.pgd import Frozen

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
ATTACK = Pgd(steps=STEPS)


def plain_pgd(model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
    """Ten steps of 2/255 within 8/255, as most released code writes them."""
    delta = (2 * torch.rand(x.shape, generator=gen, device=x.device) - 1) * EPS
    x_adv = (x + delta).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(x_adv), labels).backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + STEP * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    return x_adv.detach()


def main() -> None:
    """Times both attacks and compares what they leave."""
    parser = record.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    device = torch.device(args.device)
    row = speed(args, device) | robustness(args, device)
    print(
        f"ours {row['ours']['median']:.2f} s ({row['ours']['min']:.2f}..{row['ours']['max']:.2f}), "
        f"plain {row['plain']['median']:.2f} s ({row['plain']['min']:.2f}..{row['plain']['max']:.2f}), "
        f"ratio {row['ratio']}; robust accuracy {row['robust_acc']}"
    )
    if not args.quick:
        record.append("attack", row)


def speed(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of one attack on 128 images."""
    spec = TrainSpec()
    images = cifar10(args.data, "test", 128).to(device)
    build = {"num_classes": 10, "shape": images.shape, "seed": 0}
    theirs = spec.architecture.network(**build).to(device).eval()  # type: ignore[arg-type]
    mine = spec.architecture.network(**build).to(device, memory_format=torch.channels_last).eval()  # type: ignore[arg-type,call-overload]
    x = to_float(images.x)
    gen = torch.Generator(device).manual_seed(0)

    def ours() -> None:
        with Frozen(mine), spec.autocast(device):
            ATTACK.craft(mine, x.contiguous(memory_format=torch.channels_last), images.y, gen)

    a, b = record.interleave(
        ours, lambda: plain_pgd(theirs, x, images.y, gen), 1 if args.quick else args.repeats, device=device
    )
    return {
        "unit": "seconds",
        "network": "resnet18",
        "batch": 128,
        "steps": STEPS,
        "device": str(device),
        "precision": spec.arithmetic(device),
        "ours": record.spread(a),
        "plain": record.spread(b),
        "ratio": round(statistics.median(b) / statistics.median(a), 2),
    }


def robustness(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What each attack leaves of an adversarially trained network, from several random starts."""
    limit, epochs, starts = (256, 1, 2) if args.quick else (3000, 10, 5)
    settings = {
        "architecture": {"kind": "resnet18", "width": 16},
        "defense": "pgd_at",
        "schedule": "one_cycle",
    }
    spec = TrainSpec.parse({**settings, "epochs": epochs, "batch_size": 64}, "benchmark")
    train, test = cifar10(args.data, "train", limit), cifar10(args.data, "test", 1000).to(device)
    model = fit(spec, train, test, seed=0, device=device).model.eval()
    x, left = to_float(test.x), {"ours": [], "plain": []}  # type: ignore[var-annotated]
    for start in range(starts):
        gen = torch.Generator(device).manual_seed(start)
        with Frozen(model), spec.autocast(device):
            left["ours"].append(kept(model, ATTACK.craft(model, x, test.y, gen), test.y))
        left["plain"].append(kept(model, plain_pgd(model, x, test.y, gen), test.y))
    text = {name: f"{statistics.fmean(v):.4f} ± {statistics.stdev(v):.4f}" for name, v in left.items()}
    return {
        "robust_acc": text,
        "robust_accs": left,
        "attacked": f"resnet18 width 16, pgd_at, {epochs} epochs",
    }


@torch.no_grad()
def kept(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The accuracy on `x`."""
    return (model(x).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
