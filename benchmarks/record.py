"""What every benchmark here shares: timing two things in turn, and one JSON line per result with its
machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainers.provenance import commit, installed

RESULTS = Path(__file__).with_name("results")


def parser(about: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    """Options that every benchmark here takes; `data` says whether it needs CIFAR-10."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help="CIFAR-10: Parquet or .pt files"
        )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="as short as can be; nothing is written")
    return parser


def machine() -> dict[str, Any]:
    """Processor, cores and accelerator, versions, command, time (UTC) and commit, as JSON types."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": installed("torchvision"),
        "command": _command(sys.argv),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def append(name: str, row: dict[str, Any]) -> Path:
    """Adds `row` and the machine as one line to `results/<name>.jsonl`."""
    path = RESULTS / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row | machine(), ensure_ascii=False) + "\n")
    return path


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, the device's work included."""
    _finish(device)
    start = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - start


def interleave(
    a: Callable[[], object], b: Callable[[], object], repeats: int, *, device: torch.device | str = "cpu"
) -> tuple[list[float], list[float]]:
    """Seconds a call of `a` and of `b`, in turn, so that a busy machine hurts both; one call of each before
    the clock starts."""
    device = torch.device(device)
    a(), b()
    pairs = [(seconds(a, device), seconds(b, device)) for _ in range(repeats)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _command(argv: list[str]) -> str:
    """As typed, but with DIR for the folder of the data."""
    folder = argv.index("--data") + 1 if "--data" in argv else len(argv)
    return " ".join(["python", *("DIR" if i == folder else argument for i, argument in enumerate(argv))])


def _cpu() -> str:
    """The model name from /proc/cpuinfo, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
