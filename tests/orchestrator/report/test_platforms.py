"""A report warns if it mixes results of several numerical platforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.plan import Plan
from orchestrator.report.html.document import document_of
from orchestrator.report.html.render import page_of
from orchestrator.storage.ledger import Ledger
from orchestrator.tracking.payloads import done
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

AMX, BF16 = "torch 2.15.0, avx512_core_amx, 1 thread", "torch 2.15.0, avx512_core_bf16, 1 thread"


@pytest.fixture
def plan(store: Store) -> Plan:
    """Two cells of two seeds."""
    return plan_of(
        tiny(grid={"data.poison": ["clean", "ops"], "seed": [0, 1]}, report={"columns": "data.poison"}), store
    )


def result(platform: str | None, precision: str = "bfloat16", **more: Any) -> dict[str, Any]:
    fields = {} if platform is None else {"platform": {"name": platform, "cpu": "a Xeon", "gpu": None}}
    return {"metrics": {"test/clean_acc": 0.5}, "precision": precision, **fields, **more}


def warned(plan: Plan, store: Store, *results: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    ledger = Ledger(store.where)
    for task, record in zip(plan.tasks, results, strict=True):
        ledger.publish(task.key, record)
    sheet = report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))
    return [(one.kind, one.column, one.text) for one in sheet.warnings]


def test_one_platform_or_an_axis_of_precision_gives_no_warning(plan: Plan, store: Store) -> None:
    clean, ops = result(AMX), result(AMX, "float32")
    assert warned(plan, store, clean, clean, ops, ops) == []


def test_results_of_earlier_versions_alone_give_no_warning(plan: Plan, store: Store) -> None:
    assert warned(plan, store, *[result(None)] * 4) == []


def test_a_cell_and_a_table_that_mix_platforms_name_them(plan: Plan, store: Store) -> None:
    found = warned(plan, store, result(AMX), result(BF16), result(AMX), result(AMX))
    assert [(kind, column) for kind, column, _ in found] == [("platform", "clean"), ("platform", None)]
    assert f"its trials ran on 2 numerical platforms: {AMX}; bfloat16 (1 trial), {BF16}" in found[0][2]
    assert f"{AMX} (3 trials), {BF16} (1 trial)" in found[1][2]
    assert "run.cpu_isa" in found[1][2]


def test_a_table_whose_cells_come_from_different_platforms_gets_a_warning(plan: Plan, store: Store) -> None:
    found = warned(plan, store, result(AMX), result(AMX), result(None), result(None))
    assert [column for _, column, _ in found] == [None]
    assert "a platform that was not recorded (2 trials)" in found[0][2]


def test_a_cell_that_mixes_precisions_on_one_platform_gets_a_warning(plan: Plan, store: Store) -> None:
    found = warned(plan, store, result(AMX), result(AMX, "float32"), result(AMX), result(AMX))
    assert found == [
        (
            "platform",
            "clean",
            "its trials were computed in 2 precisions: bfloat16 (1 trial), float32 (1 trial)",
        )
    ]


def test_a_data_set_without_a_recorded_hash_is_not_another_version(plan: Plan, store: Store) -> None:
    def read(digest: str | None) -> dict[str, Any]:
        return result(
            AMX, data_sets={"digits-em-train-1111111111111111": {"sha256": digest, "platform": None}}
        )

    assert warned(plan, store, read("aa"), read(None), read("aa"), read("aa")) == []


def test_probe_findings_from_several_platforms_give_a_warning(store: Store) -> None:
    plan, ledger = (
        plan_of(
            tiny(
                grid={"data.poison": ["clean", "ops"], "seed": [0, 1]},
                report={"columns": "data.poison"},
                probes=["distance"],
            ),
            store,
        ),
        Ledger(store.where),
    )
    for task, name in zip(plan.tasks, (AMX, BF16, AMX, None), strict=True):
        ledger.publish(task.key, result(AMX))
        platform = {} if name is None else {"platform": {"name": name}}
        (planned,) = task.probes
        ledger.publish_finding(task.key, planned.key, {"metrics": {"relative": 1.0}, **platform})
    sheet = report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))
    (one,) = (one for one in sheet.warnings if one.kind == "platform")
    assert (one.column, one.text) == (
        "clean",
        f"the findings of its probe distance were computed on 2 numerical platforms: {AMX} (1 trial), {BF16} (1 trial)",
    )


def test_two_versions_of_a_data_set_give_a_warning(plan: Plan, store: Store) -> None:
    def read(digest: str, platform: str = AMX) -> dict[str, Any]:
        sets = {"digits-em-train-1111111111111111": {"sha256": digest, "platform": platform}}
        return result(
            AMX,
            needs=["digits-clean-test-2222222222222222", "digits-em-train-1111111111111111"],
            data_sets=sets,
        )

    found = warned(plan, store, read("aa"), read("aa"), read("aa"), read("bb", BF16))
    assert [column for _, column, _ in found] == ["ops", None]
    assert "its training sets were made on 2 numerical platforms" in found[0][2]
    assert found[1][2] == "trials read 2 versions of the data set digits-em-train-1111111111111111"


def test_the_page_and_mlflow_name_the_platform(plan: Plan, store: Store) -> None:
    ledger, record = (
        Ledger(store.where),
        result(AMX, "float32", precision_fallback="float32 in place of bfloat16: why"),
    )
    record |= {"environment": {"host": "here"}, "history": [{"epoch": 1.0}], "device": "cpu", "seconds": 1.0}
    for task in plan.tasks:
        ledger.publish(task.key, record)
    page = page_of(
        document_of([report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))], store.where)
    )
    assert AMX in page
    assert "a Xeon" in page
    tags = done(record).tags
    assert tags["platform.name"] == AMX
    assert tags["platform.cpu"] == "a Xeon"
    assert "platform.gpu" not in tags
    assert tags["opsctl.precision"] == "float32"
    assert tags["opsctl.precision_fallback"] == "float32 in place of bfloat16: why"
