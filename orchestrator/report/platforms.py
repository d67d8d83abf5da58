"""Warnings about results that were computed on several numerical platforms: they differ by more than their
settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.depots.results import Record
from orchestrator.report.sheet_warning import SheetWarning
from orchestrator.report.table import Table
from orchestrator.standing import Standing

UNKNOWN = "a platform that was not recorded"


def platform_name(record: Record) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread`: what a finished trial was computed on."""
    platform = record.get("platform")
    name = platform.get("name") if isinstance(platform, dict) else None
    return name or UNKNOWN


def _arithmetic(record: Record) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread; bfloat16`: and in which arithmetic."""
    return f"{platform_name(record)}; {record.get('precision') or 'precision unknown'}"


def mixed_platforms(standing: Standing, table: Table) -> Iterator[SheetWarning]:
    """For every cell whose trials, or whose training sets, were computed on several platforms, for the table
    if its cells were, and for every data set that is not of the same bytes in all trials."""
    for cell in table.cells.values():
        records = [standing.results[key] for key in cell.keys if key in standing.results]
        if len(names := Counter(map(_arithmetic, records))) > 1:
            text = f"its trials ran on {_counted(names)}"
            yield SheetWarning("platform", text, row=cell.row, column=cell.column)
        if len(makers := Counter(_data_platforms(records))) > 1:
            text = f"its training sets were made on {_counted(makers)}"
            yield SheetWarning("platform", text, row=cell.row, column=cell.column)
    everywhere = Counter(map(platform_name, standing.results.values()))
    if len(everywhere) > 1:
        yield SheetWarning(
            "platform",
            f"trials ran on {_counted(everywhere)}: cells, comparisons and claims across them differ by "
            "rounding too, which a training can amplify; run.cpu_isa pins the instruction set",
        )
    for name, versions in _versions(standing.results.values()).items():
        if versions > 1:
            yield SheetWarning("platform", f"trials read {versions} versions of the data set {name}")


def _counted(names: Mapping[str, int]) -> str:
    """`2 numerical platforms: A (4 trials), B (1 trial)`"""
    told = [f"{name} ({n} trial{'' if n == 1 else 's'})" for name, n in names.items()]
    return f"{len(names)} numerical platforms: {', '.join(told)}"


def _data_platforms(records: Iterable[Record]) -> Iterator[str]:
    """On what the training set of each of these trials was made, as far as that is known."""
    for record in records:
        sets = record.get("data_sets") or {}
        name = record["needs"][-1] if record.get("needs") else None
        if (platform := sets.get(name, {}).get("platform")) is not None:
            yield platform


def _versions(records: Iterable[Record]) -> dict[str, int]:
    """How many different bytes each data set had, by its name."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, told in (record.get("data_sets") or {}).items():
            found.setdefault(name, set()).add(told["sha256"])
    return {name: len(digests) for name, digests in found.items()}
