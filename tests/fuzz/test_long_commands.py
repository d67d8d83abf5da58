"""Commands that write to a damaged or hostile store repair it, and its numbers are those of an undamaged one."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.cluster import free_port
from tests.fuzz.bench import DATABASE, Bench
from tests.fuzz.hostile import changed_bytes, examples
from tests.fuzz.test_commands import KINDS, damage, put_in_place, some

SWEEP_SECONDS, MLFLOW_SECONDS = 60.0, 30.0  # Ray starts and trains; MLflow makes a database


def spoil(bench: Bench, data: st.DataObject) -> None:
    """Damage a few files, or replace one by something else."""
    bench.fresh()
    if data.draw(st.booleans()):
        damage(bench.store, data.draw(some(bench.names)), data)
    else:
        file, other = (bench.store / data.draw(st.sampled_from(bench.names)) for _ in range(2))
        kind = data.draw(st.sampled_from(KINDS))
        put_in_place(file, kind, other.read_bytes(), bench.folder / "victim" / "canary")


def test_a_sweep_on_a_damaged_store_ends_with_the_right_numbers(bench: Bench) -> None:
    """Except for trials recorded as failed, all are done in the end."""

    @given(st.data())
    @examples(2)
    def check(data: st.DataObject) -> None:
        spoil(bench, data)
        bench.run(["sweep", "SWEEP"], seconds=SWEEP_SECONDS)
        values = bench.values()
        assert values.items() <= bench.every.items()
        assert len(values) >= len(bench.every) - 1, "only the trial that had failed may be missing"

    check()


def spoil_database(bench: Bench, data: st.DataObject) -> None:
    bench.fresh()
    file = bench.store / DATABASE
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(changed_bytes(file.read_bytes())))
    else:
        other = bench.store / data.draw(st.sampled_from(bench.names))
        put_in_place(
            file, data.draw(st.sampled_from(KINDS)), other.read_bytes(), bench.folder / "victim" / "canary"
        )


def test_track_fills_a_damaged_database(bench: Bench) -> None:
    @given(st.data())
    @examples(3)
    def check(data: st.DataObject) -> None:
        database_alone = data.draw(st.booleans())
        spoil_database(bench, data) if database_alone else spoil(bench, data)
        ended = bench.run(["track", "SWEEP"], seconds=MLFLOW_SECONDS)
        if database_alone and (bench.store / DATABASE).is_file():
            assert ended.code == 0, ended.printed

    check()


def seen(bench: Bench) -> str:
    """The output of `opsctl ui`, which is stopped once it serves."""
    command, end = bench.command(["ui", "--port", str(free_port())]), time.monotonic() + MLFLOW_SECONDS
    while not re.search("MLflow is at|error:", command.printed()) and time.monotonic() < end:
        time.sleep(0.05)
    return bench.check(command.end(MLFLOW_SECONDS), seconds=MLFLOW_SECONDS).printed


def test_ui_starts_on_a_damaged_database(bench: Bench) -> None:
    bench.fresh()
    assert "MLflow is at" in seen(bench)

    @given(st.data())
    @examples(1)
    def check(data: st.DataObject) -> None:
        spoil_database(bench, data)
        seen(bench)

    check()
