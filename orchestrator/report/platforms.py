"""Warnings about results computed on several numerical platforms, which differ by more than their
settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.monitoring.sweep_status import SweepStatus, without_curves
from orchestrator.report.sheet_warning import SheetWarning
from orchestrator.report.table import Table
from orchestrator.storage.records import Finding, Result

UNKNOWN = "a platform that was not recorded"


def platform_name(record: Result | Finding) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread`: the platform that a finished trial ran on."""
    return (record["platform"]["name"] if "platform" in record else "") or UNKNOWN


def _arithmetic(record: Result) -> str:
    """`torch 2.15.0, avx512_core_bf16, 1 thread; bfloat16`: the platform and the precision."""
    return f"{platform_name(record)}; {_precision(record)}"


def _precision(record: Result) -> str:
    return record.get("precision") or "precision unknown"


def mixed_platforms(status: SweepStatus, table: Table) -> Iterator[SheetWarning]:
    """A warning for each cell whose trials, training sets or probe findings were computed on several
    platforms, one for the table if its cells were, and one for each data set whose bytes differ between
    trials."""
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


def _of_trials(records: Sequence[Result]) -> Iterator[str]:
    """For a cell whose trials ran on several platforms, or in several precisions on one platform."""
    if len(set(map(platform_name, records))) > 1:
        yield from _several("its trials ran on", Counter(map(_arithmetic, records)))
    else:
        yield from _several("its trials were computed in", Counter(map(_precision, records)), "precisions")


def _of_findings(status: SweepStatus, keys: Iterable[str]) -> Iterator[str]:
    """For each probe whose findings in a cell come from several platforms. Findings that do not record their
    platform are left out."""
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


def _data_platforms(records: Iterable[Result]) -> Iterator[str]:
    """The platform on which the training set of each of these trials was built, where it was recorded."""
    for record in records:
        sets, needs = record.get("data_sets", {}), record.get("needs", [])
        if needs and needs[-1] in sets and (platform := sets[needs[-1]].get("platform")) is not None:
            yield platform


def _versions(records: Iterable[Result]) -> dict[str, int]:
    """How many different versions of each data set were read, by name, where their hashes were recorded."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, read in record.get("data_sets", {}).items():
            if read["sha256"] is not None:
                found.setdefault(name, set()).add(read["sha256"])
    return {name: len(digests) for name, digests in found.items()}
