"""Seconds of a noise step of error-minimising noise: ours, and as the released code takes it.

    python benchmarks/em_round.py --data DIR [--device cuda] [--batch 512] [--quick]

Both move the noise of one batch 20 steps of 0.8/255 within 8/255 down the loss of a full-width ResNet-18 in
eval mode, and then count its errors. The plain one does it as the released code (Huang, Ma, Erfani, Bailey,
Wang; ICLR 2021): float32, tensors in the default layout, `loss.backward()`. That code freezes the weights
first, and so does the plain one; with `--weight-gradients` it leaves them be, and forms their gradients too.
What the released code spends on copying the noise image by image is left out. The two are timed in turn.
Then both run whole rounds on a class-balanced subset with a narrow ResNet-18, from equal seeds: the errors
after each round must tell the same story. Results are added to benchmarks/results/em_round.jsonl, unless the
run is quick.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import record
import torch
from data import cifar10
from torch import Tensor, nn
from torch.nn import functional as F

from poisons import CraftContext
from poisons.methods.em import Em
from poisons.methods.em_noise import Descent, Share, descend_share
from trainers import Images, TrainSpec
from trainers.images import to_float
from trainers.pgd import Frozen

EPS, STEP, STEPS, TRAIN_STEPS = 8 / 255, 0.8 / 255, 20, 10
TRACE = {"limit": 1000, "rounds": 6, "width": 16, "seeds": 2}
QUICK = {"limit": 64, "rounds": 2, "width": 4, "seeds": 1}


def plain_descent(model: nn.Module, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """The noise of one batch after 20 steps, as released."""
    z = (x + noise).clamp(0, 1)
    for _ in range(STEPS):
        z = z.detach().requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(z), labels).backward()
        assert z.grad is not None
        noise = (z.detach() - STEP * z.grad.sign() - x).clamp(-EPS, EPS)
        z = (x + noise).clamp(0, 1)
    return noise


@torch.no_grad()
def wrong(model: nn.Module, noisy: Tensor, labels: Tensor) -> float:
    """How many noisy images are put into a wrong class."""
    return (model(noisy).argmax(1) != labels).sum().item()


def plain_em(images: Images, em: Em, *, seed: int, device: torch.device) -> list[float]:
    """The error after each round, as released."""
    model = em.generator.network(num_classes=images.num_classes, shape=images.shape, seed=seed).to(device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    images, errors = images.to(device), []
    x, y, noise = to_float(images.x), images.y, torch.zeros(images.x.shape, device=device)
    parts = [slice(at, at + em.batch_size) for at in range(0, len(x), em.batch_size)]
    while not errors or (errors[-1] > 0 and len(errors) < em.max_rounds):
        model.train()
        for turn in range(len(errors) * TRAIN_STEPS, (len(errors) + 1) * TRAIN_STEPS):
            part = parts[turn % len(parts)]
            sgd.zero_grad()
            F.cross_entropy(model(x[part] + noise[part]), y[part]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), em.max_grad_norm)
            sgd.step()
        with Frozen(model):
            for part in parts:
                noise[part] = plain_descent(model, x[part], y[part], noise[part])
            errors.append(sum(wrong(model, x[part] + noise[part], y[part]) for part in parts) / len(x))
    return errors


def main() -> None:
    """Times both noise steps and compares the errors that whole rounds leave."""
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weight-gradients", action="store_true")
    for name, value in TRACE.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"of the whole rounds ({value})")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK, repeats=1, batch=min(args.batch, 8))
    device = torch.device(args.device)
    row = speed(args, device)
    print(
        f"ours ({row['precision']}) {row['ours']['median']:.2f} s ({row['ours']['min']:.2f}..{row['ours']['max']:.2f}), "
        f"plain {row['plain']['median']:.2f} s ({row['plain']['min']:.2f}..{row['plain']['max']:.2f}), "
        f"ratio {row['ratio']}",
        flush=True,
    )
    row |= traces(args, device)
    if not args.quick:
        record.append("em_round", row)


def speed(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of one noise step of one batch, its errors counted."""
    recipe, images = TrainSpec(batch_size=args.batch), cifar10(args.data, "train", args.batch).to(device)
    build = {"num_classes": 10, "shape": images.shape, "seed": 0}
    theirs, mine = (recipe.architecture.network(**build).to(device) for _ in range(2))  # type: ignore[arg-type]
    mine = mine.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    descent = Descent(
        model=mine, recipe=recipe, num_classes=10, eps=EPS, step=STEP, steps=STEPS, seed=0, round=1
    )
    x, nothing = to_float(images.x), torch.zeros(images.x.shape, device=device)

    def ours() -> None:
        with Frozen(mine):
            descend_share(descent, Share(0, images.x, images.y, nothing.clone()), device)

    def plain() -> None:
        noise = plain_descent(theirs, x, images.y, nothing)
        wrong(theirs, x + noise, images.y)

    theirs.eval().requires_grad_(args.weight_gradients)
    a, b = record.interleave(ours, plain, args.repeats, device=device)
    return {
        "device": str(device),
        "batch": args.batch,
        "precision": recipe.arithmetic(device),
        "weight_gradients": args.weight_gradients,
        "ours": record.spread(a),
        "plain": record.spread(b),
        "ratio": round(statistics.median(b) / statistics.median(a), 2),
    }


def traces(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The errors after each of some rounds, both ways, from several seeds, and the seconds of all of them."""
    images = cifar10(args.data, "train", args.limit)
    generator = {"kind": "resnet18", "width": args.width}
    em = Em.parse(
        {
            "generator": generator,
            "max_rounds": args.rounds,
            "stop_error": 0,
            "batch_size": min(args.batch, args.limit),
        },
        "benchmark",
    )
    errors: dict[str, list[list[float]]] = {"ours": [], "plain": []}
    seconds = {"ours": 0.0, "plain": 0.0}
    for seed in range(args.seeds):
        start = time.perf_counter()
        facts = em.craft(images, seed=seed, context=CraftContext(device=device)).facts()
        between = time.perf_counter()
        errors["ours"].append([round(row["error"], 4) for row in facts["rounds"]])
        errors["plain"].append([round(e, 4) for e in plain_em(images, em, seed=seed, device=device)])
        seconds["ours"] += between - start
        seconds["plain"] += time.perf_counter() - between
        print(f"seed {seed}: errors of ours {errors['ours'][-1]}, of plain {errors['plain'][-1]}", flush=True)
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    print(f"seconds of whole rounds: ours {rounded['ours']}, plain {rounded['plain']}", flush=True)
    return {
        "errors": errors,
        "seconds_of_rounds": rounded,
        "rounds_of": f"resnet18 width {args.width}, {args.limit} images, batch {em.batch_size}, {args.rounds} rounds",
    }


if __name__ == "__main__":
    main()
