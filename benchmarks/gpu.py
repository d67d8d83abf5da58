"""One GPU, in less than ten minutes: how fast trainings and poisons are on it, and what published results come
to.

    python benchmarks/gpu.py --data DIR --out FILE.jsonl [--seconds 560] [--only machine,steps,...] [--quick]

Sections run in order, and each says what it found in lines of JSON, on the terminal and in FILE. One that would
not end within the time that is left is named and left out; one that fails says so, and the next one runs.
Correctness on a GPU is tested by `make gpu-test`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import record
import torch
from data import cifar10

from poisons import CraftContext, Poison
from poisons.methods.em import Em
from trainers import Images, TrainSpec
from trainers.flops import network_flops
from trainers.gpu_profile import advance, random_images, training_speed, training_steps
from trainers.images import to_float
from trainers.loop import Training, generator, train_step
from trainers.recipe import repeatable
from trainers.trial import Trial

SHAPE = (3, 32, 32)
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({"architecture": "resnet18"}, 128),
    "resnet18 batch 512": ({"architecture": "resnet18"}, 512),
    "resnet18 width 16": ({"architecture": {"kind": "resnet18", "width": 16}}, 128),
    "wide_resnet 28-1": ({"architecture": {"kind": "wide_resnet", "depth": 28, "width": 1}}, 128),
    "wide_resnet 28-2": ({"architecture": {"kind": "wide_resnet", "depth": 28, "width": 2}}, 128),
    "wide_resnet 28-10": ({"architecture": {"kind": "wide_resnet", "depth": 28, "width": 10}}, 64),
    "densenet121": ({"architecture": "densenet121"}, 128),
    "cct_7_3x1": ({"architecture": "cct_7_3x1"}, 128),
    "vgg16_bn": ({"architecture": "vgg16_bn"}, 128),
    "mobilenet_v2": ({"architecture": "mobilenet_v2"}, 128),
    "resnet18 pgd_at": ({"architecture": "resnet18", "defense": "pgd_at"}, 128),
    "resnet18 pgd_at batch 512": ({"architecture": "resnet18", "defense": "pgd_at"}, 512),
    "resnet18 uda_augment": ({"architecture": "resnet18", "augmentations": ["uda_augment"]}, 128),
    "resnet18 ueraser": ({"architecture": "resnet18", "defense": "ueraser"}, 128),
}
SMALL: dict[str, Any] = {"architecture": {"kind": "resnet18", "width": 4}, "epochs": 1, "batch_size": 64}


@dataclass
class Run:
    """One run of the sections: its options, what is left of its time, and what a section leaves for the
    next."""

    args: argparse.Namespace
    device: torch.device
    start: float = field(default_factory=time.monotonic)
    matrix: dict[str, float] = field(default_factory=dict)  # TFLOP/s of a matrix product, by precision
    poisoned: dict[str, Images] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return float(self.args.seconds - (time.monotonic() - self.start))

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def say(self, section: str, **row: Any) -> None:
        line = json.dumps(
            {"section": section, "at": round(time.monotonic() - self.start, 1), **row}, default=str
        )
        with self.args.out.open("a") as file:
            file.write(line + "\n")
        print(line[:600], flush=True)

    def cifar10(self, split: str, limit: int | None = None) -> Images:
        return cifar10(self.args.data, split, 256 if self.args.quick else limit)

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """The median seconds of a call."""
        return statistics.median(record.seconds(run, self.device) for _ in range(repeats))


def machine(run: Run) -> None:
    """The device, its rate of matrix products and of copies."""
    n = 8192 if run.gpu else 512
    row: dict[str, Any] = record.machine()
    if run.gpu:
        about = torch.cuda.get_device_properties(run.device)
        fields = "driver_version,clocks.sm,clocks.mem,power.limit"
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
        )
        row |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "multiprocessors": about.multi_processor_count,
            "bytes": about.total_memory,
            fields: said.stdout.strip(),
        }
    for name in ("float32", "bfloat16"):
        a, b = torch.randn(2, n, n, device=run.device, dtype=getattr(torch, name)).unbind()
        a @ b
        run.matrix[name] = round(2 * n**3 / run.seconds(lambda: a @ b, 10) / 1e12, 1)  # noqa: B023
    x = torch.zeros(2**30 if run.gpu else 2**22, dtype=torch.uint8, device=run.device)
    y = torch.zeros_like(x)
    copied = 2 * x.numel() / run.seconds(lambda: y.copy_(x), 10) / 1e12
    run.say("machine", **row, matrix_tflops=run.matrix, copy_tb_s=round(copied, 2))


def steps(run: Run) -> None:
    """Images per second of training steps, kernels of a step, how busy the GPU is."""
    images = random_images(4096 if run.gpu else 256, SHAPE, 10).to(run.device)
    for name, (recipe, batch) in NETWORKS.items():
        if not run.args.quick or name == "resnet18 width 16":
            measure(run, name, recipe, batch, images)
    if run.gpu:
        for precision in ("bfloat16", "float32"):
            found = training_speed(run.device, precision)  # type: ignore[arg-type]
            run.say("steps", name="training_speed", precision=precision, **vars(found))


def measure(run: Run, name: str, recipe: dict[str, Any], batch: int, images: Images) -> None:
    """One line about a recipe."""
    spec = TrainSpec.parse({**recipe, "batch_size": batch if run.gpu else 16}, name)
    count, repeats = (30, 3) if run.gpu else (1, 1)
    with repeatable():
        training = Training.begin(spec, images, seed=0, device=run.device)
        work = training_steps(training, images, run.device)
        warm = advance(work, 6 if run.gpu else 1, run.device)
        if run.gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(advance(work, count, run.device) / count for _ in range(repeats))
        more = kernels(run, lambda: advance(work, 5, run.device), 5, seconds) if run.gpu else {}
    network = network_flops(spec.architecture, shape=SHAPE, num_classes=10)
    precision = spec.arithmetic(run.device)
    rate = network.of(spec.defense.passes) * spec.batch_size / seconds / 1e12
    run.say(
        "steps",
        name=name,
        batch=spec.batch_size,
        precision=precision,
        execution=spec.execution,
        images_per_second=round(spec.batch_size / seconds),
        milliseconds=round(seconds * 1e3, 3),
        tflops=round(rate, 2),
        share_of_matrix_rate=round(rate / run.matrix.get(precision, math.inf), 3),
        first_steps_seconds=round(warm, 1),
        **more,
    )


def kernels(run: Run, work: Callable[[], object], steps: int, seconds: float) -> dict[str, Any]:
    """The kernels of a step of that many `seconds`, and the longest of them."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
    events = [e for e in profiler.events() if e.device_type == DeviceType.CUDA]
    by_averages = sum(e.self_device_time_total for e in profiler.key_averages()) / 1e6 / steps
    longest = Counter[str]()
    for event in events:
        longest[event.name[:60]] += event.time_range.elapsed_us() / steps
    busy = sum(longest.values()) / 1e6
    return {
        "kernels": len(events) / steps,
        "kernel_milliseconds": round(busy * 1e3, 3),
        "by_averages": round(by_averages * 1e3, 3),
        "busy": round(busy / seconds, 3),
        "peak_bytes": torch.cuda.max_memory_reserved(),
        "longest_us": [(name, round(us)) for name, us in longest.most_common(6)],
    }


def graph(run: Run) -> None:
    """The whole step as one CUDA graph, against eager: images per second, and whether the weights are equal."""
    images = random_images(4096, SHAPE, 10).to(run.device)
    for name, (recipe, batch) in NETWORKS.items():
        spec = TrainSpec.parse({**recipe, "batch_size": batch}, name)
        (eager, a), (graphed, b) = (replayed(run, spec, images, graphed=g) for g in (False, True))
        apart = max((x.double() - y.double()).abs().max().item() for x, y in zip(a, b, strict=True))
        run.say(
            "graph",
            name=name,
            eager=round(eager),
            graphed=round(graphed),
            gain=round(graphed / eager, 2),
            equal=all(torch.equal(x, y) for x, y in zip(a, b, strict=True)),
            largest_difference=apart,
        )


def replayed(run: Run, spec: TrainSpec, images: Images, *, graphed: bool) -> tuple[float, list[torch.Tensor]]:
    """Images per second, and the weights after 20 steps."""
    with repeatable():
        t = Training.begin(spec, images, seed=0, device=run.device)
        t.model.train()
        gen, lr = generator(run.device, 1), torch.tensor(0.01, device=run.device)
        take = torch.arange(spec.batch_size, device=run.device)

        def step() -> None:
            y = spec.targets(images.y[take], 10)
            train_step(t, t.model, to_float(images.x[take]), y, gen, lr=lr)  # type: ignore[arg-type]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        once: Callable[[], object] = step
        if graphed:
            captured = torch.cuda.CUDAGraph()
            captured.register_generator_state(gen)
            with torch.cuda.graph(captured):
                step()
            once = captured.replay
        for i in range(20):
            take.copy_(torch.arange(spec.batch_size, device=run.device) + i * spec.batch_size % 3072)
            once()
        weights = [p.detach().clone() for p in t.model.parameters()]
        seconds = run.seconds(lambda: [once() for _ in range(30)], 3) / 30
    return spec.batch_size / seconds, weights


def em(run: Run) -> None:
    """Sample-wise error-minimising noise of all training images, as published."""
    settings = Em.smoke if run.args.quick else {"max_rounds": run.args.em_rounds}
    clean, start = run.cifar10("train"), time.perf_counter()
    context = CraftContext(device=run.device, report=lambda row: run.say("em", **row))
    delta = Em.parse(settings, "em").craft(clean, seed=0, context=context)
    run.poisoned["em"] = delta.apply(clean)
    run.say(
        "em",
        images=len(clean),
        all_seconds=round(time.perf_counter() - start, 1),
        rounds=len(delta.facts()["rounds"]),
        reached_stop_error=delta.facts()["reached_stop_error"],
        precision=delta.facts()["precision"],
    )


def accuracies(run: Run) -> None:
    """Test accuracy of a ResNet-18 after a short recipe, on clean, OPS, EM and CIFAR-10-S images."""
    clean, test, ops = run.cifar10("train"), run.cifar10("test"), Poison.parse("ops", "ops")
    sets = {"clean": clean, "ops": ops.craft(clean, seed=0).apply(clean)} | run.poisoned
    if em := run.poisoned.get("em"):
        sets["em, ops"] = run.poisoned["em, ops"] = ops.craft(em, seed=0).apply(em)
    recipe = SMALL if run.args.quick else {"epochs": run.args.epochs}
    for name, train in sets.items():
        trial = Trial.parse({"train": {**recipe, "schedule": "one_cycle"}}, name)
        _, found = trial.run(train, test, device=run.device)
        tell(run, "accuracies", name, recipe, found)


def robust(run: Run) -> None:
    """Adversarial training on CIFAR-10-S, or on clean images if no noise was crafted, under PGD-20."""
    name = "em, ops" if "em, ops" in run.poisoned else "clean"
    train, test = run.poisoned.get(name) or run.cifar10("train"), run.cifar10("test")
    recipe = SMALL if run.args.quick else {"epochs": run.args.robust_epochs, "batch_size": 512}
    settings = {
        "train": {**recipe, "defense": "pgd_at", "schedule": "one_cycle"},
        "evaluation": {"attacks": ["pgd"], "attack_limit": 2000},
    }
    _, found = Trial.parse(settings, name).run(train, test, device=run.device)
    tell(run, "robust", name, recipe, found)


def tell(run: Run, section: str, name: str, recipe: dict[str, Any], found: dict[str, Any]) -> None:
    metrics = {key: round(value, 4) for key, value in found["metrics"].items()}
    curve = [round(row["test/clean_acc"], 4) for row in found["history"]]
    run.say(
        section,
        train=name,
        recipe=recipe,
        seconds=found["seconds"],
        metrics=metrics,
        curve=curve,
        precision=found["precision"],
        warnings=found["warnings"],
    )


def other(name: str, *words: str) -> Callable[[Run], None]:
    """A benchmark beside this one, in a process of its own."""

    def section(run: Run) -> None:
        data = ("--data", str(run.args.data)) if name in ("attack", "train_step") else ()
        options = [*data, "--device", str(run.device), *words, *(["--quick"] if run.args.quick else [])]
        script = str(Path(__file__).with_name(f"{name}.py"))
        ran = subprocess.run(
            [sys.executable, script, *options], capture_output=True, text=True, timeout=max(10, run.left)
        )
        run.say(name, code=ran.returncode, said=ran.stdout[-4000:].splitlines(), wrong=ran.stderr[-600:])

    return section


SECTIONS: dict[str, tuple[Callable[[Run], None], float]] = {  # with the seconds that it takes
    "machine": (machine, 10),
    "steps": (steps, 40),
    "graph": (graph, 40),
    "em": (em, 150),
    "accuracies": (accuracies, 110),
    "robust": (robust, 60),
    "attack": (other("attack"), 25),
    "train_step": (other("train_step", "--steps", "40", "--repeats", "3", "--workers", "8"), 60),
    "augment": (other("augment", "--repeats", "5"), 25),
    "packing": (other("packing", "--seconds", "4"), 90),
}


def sections(text: str) -> list[str]:
    """Names of sections, separated by commas."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return names


def main() -> None:
    """Run the sections for which there is time."""
    parser = record.parser(__doc__)
    parser.set_defaults(device="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--only", type=sections, default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--em-rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--robust-epochs", type=int, default=8)
    args = parser.parse_args()
    run = Run(args, torch.device(args.device))
    for name in args.only:
        section, expected = SECTIONS[name]
        if run.left < expected:
            run.say(name, left_out=f"it takes about {expected:.0f} s, and {run.left:.0f} s are left")
            continue
        start = time.monotonic()
        try:
            section(run)
        except Exception as error:  # noqa: BLE001  (the next section runs)
            run.say(name, error=f"{type(error).__name__}: {error}"[:500], where=traceback.format_exc()[-900:])
        if run.gpu:
            torch.cuda.empty_cache()
        run.say(name, done=True, seconds=round(time.monotonic() - start, 1), expected=expected)


if __name__ == "__main__":
    main()
