"""Warnings about results that were computed on several numerical platforms: they differ by more than their
settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.monitoring.sweep_status import SweepStatus, without_curves
from orchestrator.report.sheet_warning import SheetWarning
from orchestrator.report.table import Table
from orchestrator.storage.records import Record

UNKNOWN = "a platform that was not recorded"


def platform_name(record: Record) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread`: what a finished trial was computed on."""
    platform = record.get("platform")
    name = platform.get("name") if isinstance(platform, dict) else None
    return name or UNKNOWN


def _arithmetic(record: Record) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread; bfloat16`: and in which arithmetic."""
    return f"{platform_name(record)}; {_precision(record)}"


def _precision(record: Record) -> str:
    return record.get("precision") or "precision unknown"


def mixed_platforms(status: SweepStatus, table: Table) -> Iterator[SheetWarning]:
    """For every cell whose trials, training sets or findings of a probe were computed on several platforms,
    for the table if its cells were, and for every data set that is not of the same bytes in all trials."""
    for cell in table.cells.values():
        records = [status.results[key] for key in cell.keys if key in status.results]
        for text in (
            *_of_trials(records),
            *_several("its training sets were made on", Counter(_data_platforms(records))),
            *_of_findings(status, cell.keys),
        ):
            yield SheetWarning("platform", text, row=cell.row, column=cell.column)
    everything = [status.results[e.key] for e in status.snapshot.entries if e.key in status.results]
    everywhere = Counter(map(platform_name, everything))
    if len(everywhere) > 1:
        yield SheetWarning(
            "platform",
            f"trials ran on {_counted(everywhere)}: cells, comparisons and claims across them differ by "
            "rounding too, which a training can amplify; run.cpu_isa pins the instruction set",
        )
    for name, versions in _versions(everything).items():
        if versions > 1:
            yield SheetWarning("platform", f"trials read {versions} versions of the data set {name}")


def _of_trials(records: Sequence[Record]) -> Iterator[str]:
    """Of a cell whose trials ran on several platforms, or in several precisions on one."""
    if len(set(map(platform_name, records))) > 1:
        yield from _several("its trials ran on", Counter(map(_arithmetic, records)))
    else:
        yield from _several("its trials were computed in", Counter(map(_precision, records)), "precisions")


def _of_findings(status: SweepStatus, keys: Iterable[str]) -> Iterator[str]:
    """Of a probe whose findings at the trials of a cell are from several platforms. Findings that do not say
    theirs are left out."""
    found: dict[str, Counter[str]] = {}
    for key in keys:
        for probe, record in without_curves(status.findings.get(key, {})).items():
            if record.get("platform"):
                found.setdefault(probe, Counter())[platform_name(record)] += 1
    for probe, names in found.items():
        yield from _several(f"the findings of its probe {probe} were computed on", names)


def _several(what: str, names: Mapping[str, int], unit: str = "numerical platforms") -> Iterator[str]:
    if len(names) > 1:
        yield f"{what} {_counted(names, unit)}"


def _counted(names: Mapping[str, int], unit: str = "numerical platforms") -> str:
    """`2 numerical platforms: A (4 trials), B (1 trial)`"""
    parts = [f"{name} ({n} trial{'' if n == 1 else 's'})" for name, n in names.items()]
    return f"{len(names)} {unit}: {', '.join(parts)}"


def _data_platforms(records: Iterable[Record]) -> Iterator[str]:
    """On what the training set of each of these trials was made, as far as that is known."""
    for record in records:
        sets = record.get("data_sets") or {}
        name = record["needs"][-1] if record.get("needs") else None
        if (platform := sets.get(name, {}).get("platform")) is not None:
            yield platform


def _versions(records: Iterable[Record]) -> dict[str, int]:
    """How many different bytes each data set had, by its name, as far as they were recorded."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, told in (record.get("data_sets") or {}).items():
            if told["sha256"] is not None:
                found.setdefault(name, set()).add(told["sha256"])
    return {name: len(digests) for name, digests in found.items()}
