"""The resources that a sweep needs of a machine, and whether the machine has them: checked before anything
starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from orchestrator.planning.spec import RunSpec
from trainers.numerical_platform import cpu_flags, cpu_model, effective_isa, isa_environment

DEVICES = Path("/dev")


def local_resources() -> dict[str, float]:
    """The resources that Ray can find on this machine."""
    gpus = torch.cuda.device_count()
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    if not gpus and not hidden:  # a CPU-only torch sees no GPU, but Ray does
        gpus = len(list(DEVICES.glob("nvidia[0-9]*")))
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)}


def lacking(run: RunSpec, has: Mapping[str, float]) -> str | None:
    """What a trial or a data set of a sweep needs and a machine lacks, in words; `has` is what the largest
    machine has of each resource."""
    given = run.gpus_per_trial if isinstance(run.gpus_per_trial, float) else 0.0
    for name, need, way in (
        ("CPU", run.cpus_per_trial, "--cpus-per-trial"),
        ("CPU", run.cpus_per_data, "--set run.cpus_per_data=..."),
        ("GPU", given, "--gpus-per-trial"),
    ):
        if need > has[name]:
            return f"{need:g} {name} asked for, but no machine has more than {has[name]:g}; see {way}"
    return None


def lacking_here(run: RunSpec) -> str | None:
    """The same for this machine, including the instruction set of its processor."""
    return lacking(run, local_resources()) or _lacking_isa(run.cpu_isa)


def _lacking_isa(isa: str | None) -> str | None:
    if isa is None or isa == effective_isa(cpu_flags(), isa_environment(isa)):
        return None
    most = effective_isa(cpu_flags(), {})
    held = effective_isa(cpu_flags(), isa_environment(isa))
    instead = f"write cpu_isa: {held}" if held else "leave run.cpu_isa out"
    has = f"has {most} at most" if most else "has no instruction set of x86"
    return f"run.cpu_isa: {isa} asked for, but the processor of this machine ({cpu_model()}) {has}; {instead}"
