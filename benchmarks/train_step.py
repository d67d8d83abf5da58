"""Images per second of a training step: ours, and the plain loop that this field's released code runs.

    python benchmarks/train_step.py --data DIR [--device cuda] [--quick]

The plain loop: a DataLoader whose worker processes flip and crop PIL images, float32, `.item()` after every
step. Ours: TrainSpec's defaults, images resident on the device. Both train the same network from the same
weights on the same images with the same optimizer, in turn, some steps at a time; then both train a narrow
ResNet-18 from start to end, several seeds each, and must end with the same accuracy. Also printed: the
arithmetic rate reached (floating-point operations of the step, counted by torch, over its time), and its
share of the rate of one large matrix product on the same device. Results are added to
benchmarks/results/train_step.jsonl, unless the run is quick.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import record
import torch
from data import cifar10
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from trainers import Images, TrainSpec, fit
from trainers.feed import feed
from trainers.loop import Training, compiled, generator, train_step

NETWORKS: dict[str, Any] = {
    "resnet18": {"kind": "resnet18"},
    "wide_resnet_28_2": {"kind": "wide_resnet", "depth": 28, "width": 2},
}
NARROW = {"architecture": {"kind": "resnet18", "width": 16}, "schedule": {"kind": "one_cycle"}}


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with the transforms of the released code."""

    def __init__(self, images: Images) -> None:
        self.pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images.x]
        self.labels = images.y.tolist()
        steps = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, 4), transforms.ToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[i]), self.labels[i]


class Plain:
    """The plain loop, in pieces that a benchmark can hold on to."""

    def __init__(
        self, spec: TrainSpec, images: Images, *, seed: int, device: torch.device, workers: int
    ) -> None:
        torch.manual_seed(seed)
        options = {"batch_size": spec.batch_size, "shuffle": True, "num_workers": workers}
        self.loader = DataLoader(Pictures(images), **options, pin_memory=device.type == "cuda")  # type: ignore[arg-type]
        network = spec.architecture.network(num_classes=10, shape=images.shape, seed=seed)
        self.model, self.device = network.to(device), device
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step(self, x: Tensor, labels: Tensor) -> float:
        x, labels = x.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        logits = self.model(x)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item() + (logits.argmax(1) == labels).sum().item()

    def forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Whole batches without end."""
        while True:
            yield from (batch for batch in self.loader if len(batch[1]) == self.loader.batch_size)


def main() -> None:
    """Times every network, compares accuracies, prints a table."""
    parser = record.parser(__doc__)
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader (default 2)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="timed at a time")
    parser.add_argument("--execution", default="eager", help="of ours: eager, compiled, cuda_graphs")
    args = parser.parse_args()
    device = torch.device(args.device)
    rates = {p: matrix_rate(device, getattr(torch, p)) for p in ("float32", "bfloat16")}
    print(f"one matrix product: {rates['float32']:.3f} float32, {rates['bfloat16']:.3f} bfloat16 TFLOP/s")
    for name in NETWORKS:
        row = speed(name, args, device)
        row["matrix_tflops"] = rates
        row["share"] = round(row["tflops"]["ours"] / rates[row["precision"]], 3)
        print(
            f"{name:<18} ours {row['ours']['median']:.0f} ({row['ours']['min']:.0f}..{row['ours']['max']:.0f}), "
            f"plain {row['plain']['median']:.0f} ({row['plain']['min']:.0f}..{row['plain']['max']:.0f}) images/s, "
            f"ratio {row['ratio']}, {row['tflops']['ours']:.3f} TFLOP/s, {row['share']:.0%} of the matrix rate",
            flush=True,
        )
        if not args.quick:
            record.append("train_step", row)
    row = accuracies(args, device)
    print("accuracy after the same epochs:", row["accuracy"], f"time ratio {row['ratio']}")
    if not args.quick:
        record.append("train_step", row)


def speed(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images per second of both loops on a network, timed in turn."""
    spec = TrainSpec.parse({"architecture": NETWORKS[name], "execution": args.execution}, "benchmark")
    images = cifar10(args.data, "train", 5000)
    plain = Plain(spec, images, seed=0, device=device, workers=args.workers)
    theirs = plain.forever()
    training = Training.begin(spec, images, seed=0, device=device)
    ours = steps(training, images.to(device))

    def run(one: Iterator[Any], step: Callable[..., object]) -> Callable[[], None]:
        def some() -> None:
            for batch in itertools.islice(one, args.steps):
                step(*batch)

        return some

    mine, other = record.interleave(
        run(ours, lambda *_: None), run(theirs, plain.step), 1 if args.quick else args.repeats, device=device
    )
    count = args.steps * spec.batch_size
    flops = step_flops(plain, images, spec.batch_size)
    mine, other = [count / t for t in mine], [count / t for t in other]
    return {
        "network": name,
        "unit": "images/s",
        "device": str(device),
        "batch": spec.batch_size,
        "precision": spec.arithmetic(device),
        "execution": spec.execution,
        "workers": args.workers,
        "ours": record.spread(mine),
        "plain": record.spread(other),
        "ratio": round(statistics.median(mine) / statistics.median(other), 2),
        "tflops": {
            "ours": flops * statistics.median(mine) / 1e12,
            "plain": flops * statistics.median(other) / 1e12,
        },
    }


def steps(training: Training, images: Images) -> Iterator[tuple[()]]:
    """Our training steps without end, as an epoch takes them; each `next` is one."""
    spec, device = training.spec, images.x.device
    forward = compiled(spec, training.model)
    training.model.train()
    for epoch in itertools.count(1):
        gen = generator(device, 0, epoch)
        order = torch.randperm(len(images), generator=gen, device=device)
        for x, labels in feed(images, spec.batch_size, device, order):
            if len(x) == spec.batch_size:
                train_step(training, forward, x, spec.targets(labels, images.num_classes), gen, lr=0.1)
                yield ()


def step_flops(plain: Plain, images: Images, batch: int) -> float:
    """Floating-point operations per image of forward and backward, counted by torch."""
    x = images.x[:batch].float().to(plain.device) / 255
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(plain.model(x), images.y[:batch].to(plain.device)).backward()
    return counter.get_total_flops() / batch


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product, the best of some."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=dtype).unbind()
    times = [record.seconds(lambda: a @ b, device) for _ in range(12)]
    return 2 * n**3 / min(times) / 1e12


def accuracies(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Both loops from start to end: clean test accuracies over seeds, and the ratio of their times."""
    limit, epochs, seeds = (500, 1, 1) if args.quick else (5000, 8, 3)
    train, test = cifar10(args.data, "train", limit), cifar10(args.data, "test", 2000)
    spec = TrainSpec.parse({**NARROW, "epochs": epochs, "execution": args.execution}, "benchmark")
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in range(seeds):
        for name, run in (("ours", whole), ("plain", whole_plain)):
            out: list[float] = []
            times[name].append(
                record.seconds(lambda: out.append(run(spec, train, test, seed, device, args.workers)), device)  # noqa: B023
            )
            found[name] += out
    mean = {name: statistics.fmean(values) for name, values in found.items()}
    std = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in found.items()}
    return {
        "network": f"resnet18 width 16, {epochs} epochs of {limit} images",
        "device": str(device),
        "precision": spec.arithmetic(device),
        "accuracy": {name: f"{mean[name]:.4f} ± {std[name]:.4f}" for name in found},
        "accuracies": found,
        "seconds": {name: record.spread(values) for name, values in times.items()},
        "ratio": round(statistics.median(times["plain"]) / statistics.median(times["ours"]), 2),
    }


def whole(
    spec: TrainSpec, train: Images, test: Images, seed: int, device: torch.device, workers: int
) -> float:
    """Our clean test accuracy at the end; it is measured after every epoch, as always."""
    return fit(spec, train, test, seed=seed, device=device).history[-1]["test/clean_acc"]


def whole_plain(
    spec: TrainSpec, train: Images, test: Images, seed: int, device: torch.device, workers: int
) -> float:
    """The plain loop's, measured after every epoch too."""
    plain = Plain(spec, train, seed=seed, device=device, workers=workers)
    total, number, right = spec.epochs * len(plain.loader), 0, 0.0
    for _ in range(spec.epochs):
        plain.model.train()
        for batch in plain.loader:
            factor = spec.schedule.factor((number + 0.5) / total)
            plain.optimizer.param_groups[0]["lr"] = 0.1 * factor
            plain.step(*batch)
            number += 1
        right = plain_accuracy(plain.model.eval(), test, device)
    return right


@torch.no_grad()
def plain_accuracy(model: nn.Module, test: Images, device: torch.device) -> float:
    x, labels = test.x.float().to(device) / 255, test.y.to(device)
    return torch.cat([model(part).argmax(1) for part in x.split(500)]).eq(labels).float().mean().item()


if __name__ == "__main__":
    main()
