"""What a sweep asks of one machine, and whether a machine has it: told before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from orchestrator.spec import RunSpec

DEVICES = Path("/dev")


def local_resources() -> dict[str, float]:
    """The most that Ray may find on this machine."""
    gpus = torch.cuda.device_count()
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    if not gpus and not hidden:  # a torch for processors sees no GPU, but Ray does
        gpus = len(list(DEVICES.glob("nvidia[0-9]*")))
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)}


def lacking(run: RunSpec, has: Mapping[str, float]) -> str | None:
    """What a trial or a data set of a sweep asks for that a machine lacks, in words; `has` is what the
    largest machine has of each resource."""
    given = run.gpus_per_trial if isinstance(run.gpus_per_trial, float) else 0.0
    for name, need, way in (
        ("CPU", run.cpus_per_trial, "--cpus-per-trial"),
        ("CPU", run.cpus_per_data, "--set run.cpus_per_data=..."),
        ("GPU", given, "--gpus-per-trial"),
    ):
        if need > has[name]:
            return f"{need:g} {name} asked for, but no machine has more than {has[name]:g}; see {way}"
    return None
