"""The numerical platform: what determines the last bits of a result besides spec, images and seed.

Equal trials on equal platforms give equal numbers, bit for bit on a CPU. On other platforms they differ by
rounding, which a training can amplify: another instruction set sums in another order and multiplies bfloat16
differently.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch

from trainers.spec import InputError

CpuIsa = Literal[
    "sse41",
    "avx",
    "avx2",
    "avx2_vnni",
    "avx2_vnni_2",
    "avx512_core",
    "avx512_core_vnni",
    "avx512_core_bf16",
    "avx512_core_fp16",
    "avx512_core_amx",
    "avx512_core_amx_fp16",
]
"""Instruction sets of x86 processors as oneDNN names them, each a superset of those before it (except the
vnni forms of avx2, which only avx2 processors use)."""

ISAS: tuple[str, ...] = get_args(CpuIsa)
FLAGS: Mapping[str, tuple[str, ...]] = {  # what /proc/cpuinfo must list; oneDNN 3.13, cpu_isa_traits
    "sse41": ("sse4_1",),
    "avx": ("avx",),
    "avx2": ("avx2", "fma"),
    "avx2_vnni": ("avx2", "avx_vnni"),
    "avx2_vnni_2": ("avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"),
    "avx512_core": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "avx512_core_vnni": ("avx512f", "avx512bw", "avx512_vnni"),
    "avx512_core_bf16": ("avx512f", "avx512_vnni", "avx512_bf16"),
    "avx512_core_fp16": ("avx512f", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    "avx512_core_amx": ("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    "avx512_core_amx_fp16": ("avx512_bf16", "amx_tile", "amx_bf16", "amx_fp16"),
}
PINNED = "OPSCTL_CPU_ISA"  # environment variable: the instruction set that a worker must use exactly
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # environment variables that oneDNN reads once

PlatformRecord = dict[str, str | int | bool | None]  # a NumericalPlatform as JSON


@dataclass(frozen=True, kw_only=True)
class NumericalPlatform:
    """The hardware and software that affect results. On a GPU the CPU is recorded too: it draws the initial
    weights and decodes images."""

    device: str  # cpu, cuda
    torch: str
    cpu: str  # the processor's model
    cpu_isa: str  # used by oneDNN: the processor's instruction set, or a limited one
    vector_isa: str  # used by torch's own kernels: AVX512, AVX2, DEFAULT
    matrix_branch: str  # MKL_CBWR, which fixes the instruction set of MKL's products; or auto
    threads: int | None  # across which sums are split on a CPU; None on a GPU
    gpu: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    tf32: bool | None = None  # whether float32 products are rounded to TF32

    @property
    def short(self) -> str:
        """`torch 2.15.0, avx512_core_bf16, 1 thread`, or `torch 2.15.0, NVIDIA H100, CUDA 13.0`: everything
        that distinguishes platforms."""
        if self.device != "cpu":
            return f"torch {self.torch}, {self.gpu}, CUDA {self.cuda}, cuDNN {self.cudnn}, TF32 {self.tf32}"
        pinned = "" if self.matrix_branch == "auto" else f", MKL_CBWR {self.matrix_branch}"
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        same = "" if self.vector_isa.lower() in self.cpu_isa else f", {self.vector_isa} in torch"
        return f"torch {self.torch}, {self.cpu_isa}{same}{pinned}, {threads}"

    @property
    def key(self) -> str:
        """16 hexadecimal digits that identify it, including the processor's model."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> PlatformRecord:
        """All fields, and `name`, the short form, for comparing records without this class."""
        return {"name": self.short, **asdict(self)}


def numerical_platform(device: torch.device) -> NumericalPlatform:
    """The platform of `device` in this process, with torch's current number of threads."""
    gpu = device.type == "cuda"
    backend = torch.backends.cudnn
    return NumericalPlatform(
        device=device.type,
        torch=str(torch.__version__),  # a subclass of str, which checkpoints must not hold
        cpu=cpu_model(),
        cpu_isa=cpu_isa(),
        vector_isa=torch.backends.cpu.get_cpu_capability(),
        matrix_branch=os.environ.get("MKL_CBWR", "auto"),
        threads=None if gpu else torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if gpu else None,
        cuda=torch.version.cuda if gpu else None,
        cudnn=backend.version() if gpu else None,
        tf32=torch.get_float32_matmul_precision() != "highest" if gpu else None,
    )


def arithmetic_mark(device: torch.device) -> str:
    """Eight hexadecimal digits for the name of a file, equal where a training in one thread on `device` gives
    equal numbers."""
    found = numerical_platform(device)
    name = (found if device.type == "cuda" else replace(found, threads=1)).short
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@cache
def cpu_isa() -> str:
    """The instruction set that oneDNN uses in this process, such as `avx512_core_bf16`; on processors other
    than x86 the machine name, such as `aarch64`."""
    return effective_isa(cpu_flags(), dict(os.environ)) or platform.machine()


def effective_isa(flags: frozenset[str], environment: Mapping[str, str]) -> str | None:
    """The largest instruction set that a processor with these flags has and the environment allows; None if
    it is not x86. Like oneDNN, it ignores a limit with an unknown name."""
    limit = next((environment[name].lower() for name in LIMITS if environment.get(name)), "")
    limit = limit.replace("avx10_1_512", "avx512_core_fp16").replace("fp16_amx", "amx")
    allowed = ISAS[: ISAS.index(limit) + 1] if limit in ISAS else ISAS
    there = [isa for isa in allowed if flags.issuperset(FLAGS[isa])]
    return there[-1] if there else None


def isa_environment(isa: str) -> dict[str, str]:
    """Environment variables that restrict torch to an instruction set (oneDNN's convolutions, torch's own
    kernels, MKL's products), for a process that has not imported it yet."""
    wide = isa.startswith("avx512")
    limits = dict.fromkeys(LIMITS, isa.upper())
    return limits | {
        PINNED: isa,
        "ATEN_CPU_CAPABILITY": "avx512" if wide else "avx2" if isa.startswith("avx2") else "default",
        "MKL_CBWR": "AVX512" if wide else "AVX2" if isa.startswith("avx2") else "COMPATIBLE",
    }


def check_pinned_isa() -> None:
    """InputError if this process is pinned to an instruction set (`isa_environment`) that its processor
    lacks: its results would differ from those of other machines."""
    pinned = os.environ.get(PINNED)
    if pinned and pinned != cpu_isa():
        raise InputError(
            f"run.cpu_isa: {pinned}, but {platform.node()} ({cpu_model()}, {effective_isa(cpu_flags(), {})}) "
            f"would use {cpu_isa()}; write cpu_isa: {cpu_isa()}, or leave that machine out"
        )


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's flags as Linux lists them; empty on other systems."""
    return frozenset(_cpuinfo().get("flags", "").split())


@cache
def cpu_model() -> str:
    """The processor's name, such as `AMD EPYC 9R14`, from Linux or else from Python."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


@cache
def _cpuinfo() -> dict[str, str]:
    """Linux's description of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def has_bfloat16(isa: str) -> bool:
    """Whether oneDNN multiplies bfloat16 with the processor's own instructions under `isa`."""
    return isa in ISAS and ISAS.index(isa) >= ISAS.index("avx512_core_bf16")
