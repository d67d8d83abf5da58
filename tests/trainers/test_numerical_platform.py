"""The numerical platform names the instruction set that oneDNN reports, and a sweep can pin it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import CPU
from trainers import InputError, numerical_platform
from trainers.numerical_platform import (
    FLAGS,
    ISAS,
    LIMITS,
    PINNED,
    check_pinned_isa,
    cpu_flags,
    effective_isa,
    has_bfloat16,
    isa_environment,
)

SAYS = {  # src/cpu/platform of oneDNN 3.13, as ONEDNN_VERBOSE prints it
    "avx512_core": "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
    "avx512_core_vnni": "Intel AVX-512 with Intel DL Boost",
    "avx512_core_bf16": "Intel AVX-512 with Intel DL Boost and bfloat16 support",
    "avx512_core_fp16": "Intel AVX 10.1",
    "avx2": "Intel AVX2",
    "avx2_vnni": "Intel AVX2 with Intel DL Boost",
}
VERBOSE = """
import torch
from trainers.numerical_platform import numerical_platform
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.nn.functional.conv2d(torch.randn(8, 16, 8, 8), torch.randn(16, 16, 3, 3))
print("ours", numerical_platform(torch.device("cpu")).cpu_isa)
"""


def run(code: str, **environment: str) -> str:
    cleared = {name: value for name, value in os.environ.items() if name not in (*LIMITS, PINNED)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**cleared, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("isa", [isa for isa in ("", "avx2", "avx512_core", "avx512_core_bf16")])
def test_the_instruction_set_is_the_one_that_onednn_reports(isa: str) -> None:
    if isa and not cpu_flags().issuperset(FLAGS[isa]):
        pytest.skip(f"this processor has no {isa}")
    out = run(VERBOSE, **(isa_environment(isa) if isa else {}))
    ours = out.rpartition("ours ")[2].strip()
    assert ours == isa or not isa
    if ours not in SAYS or "isa:" not in out:
        pytest.skip(f"what oneDNN says of {ours} is not known here")
    assert out.partition("cpu,isa:")[2].splitlines()[0] == SAYS[ours]


def test_a_limit_lowers_what_a_processor_has_and_never_raises_it() -> None:
    there = ("sse41", "avx", "avx2", "avx512_core", "avx512_core_vnni", "avx512_core_bf16")
    flags = frozenset().union(*(FLAGS[isa] for isa in there))
    assert effective_isa(flags, {}) == "avx512_core_bf16"
    assert effective_isa(flags, {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == "avx2"
    assert effective_isa(flags, {"DNNL_MAX_CPU_ISA": "avx512_core"}) == "avx512_core"
    assert effective_isa(flags, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}) == "avx512_core_bf16"
    assert effective_isa(flags, {"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}) == "avx512_core_bf16"
    assert effective_isa(flags, {"ONEDNN_MAX_CPU_ISA": "nonsense"}) == "avx512_core_bf16", (
        "as oneDNN takes it"
    )
    assert effective_isa(frozenset(), {}) is None


def test_bfloat16_is_native_only_where_the_instruction_set_has_it() -> None:
    assert [isa for isa in ISAS if has_bfloat16(isa)] == list(ISAS[ISAS.index("avx512_core_bf16") :])
    assert not has_bfloat16("aarch64")
    if not cpu_flags().issuperset(FLAGS["avx512_core_bf16"]):
        pytest.skip("this processor has no bfloat16")
    code = "from trainers.recipe import *; print(native_bfloat16(torch.device('cpu')))"
    assert run(code).strip() == "True"
    assert run(code, ONEDNN_MAX_CPU_ISA="AVX2").strip() == "False", "what is emulated is not chosen"


def test_a_process_that_cannot_be_pinned_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    check_pinned_isa()
    monkeypatch.setenv(PINNED, numerical_platform.cpu_isa())
    check_pinned_isa()
    monkeypatch.setenv(PINNED, "avx512_core_amx_fp16" if numerical_platform.cpu_isa() != ISAS[-1] else "avx2")
    with pytest.raises(InputError, match=rf"run.cpu_isa: .* write cpu_isa: {numerical_platform.cpu_isa()}"):
        check_pinned_isa()


def test_a_platform_survives_a_record_and_differs_by_threads() -> None:
    platform = numerical_platform.numerical_platform(CPU)
    assert platform.to_json() == {"name": platform.short} | dataclasses.asdict(platform)
    assert platform.torch == torch.__version__
    assert type(platform.torch) is str, "a checkpoint holds only plain types"
    assert platform.threads == torch.get_num_threads()
    other = dataclasses.replace(platform, threads=torch.get_num_threads() + 1)
    assert other.key != platform.key
    assert other.short != platform.short
    elsewhere = dataclasses.replace(platform, cpu="another model")
    assert elsewhere.short == platform.short, (
        "the model of a CPU does not change numbers, but its instruction set does"
    )
