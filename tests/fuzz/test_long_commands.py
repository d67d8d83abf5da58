"""The commands that write to a damaged or hostile store: they mend it, and its numbers are those that an
undamaged one has."""

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
    """Change a few files, or have something else in the place of one."""
    bench.fresh()
    if data.draw(st.booleans()):
        damage(bench.store, data.draw(some(bench.names)), data)
    else:
        file, other = (bench.store / data.draw(st.sampled_from(bench.names)) for _ in range(2))
        kind = data.draw(st.sampled_from(KINDS))
        put_in_place(file, kind, other.read_bytes(), bench.folder / "victim" / "canary")


def test_a_sweep_ends_with_the_numbers_of_an_undamaged_store(bench: Bench) -> None:
    """But for the trials that the store says have failed, all are there in the end."""

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


def test_track_fills_a_database_that_was_damaged(bench: Bench) -> None:
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
    """All that `opsctl ui` says until it is stopped, which it is once it serves."""
    command, end = bench.command(["ui", "--port", str(free_port())]), time.monotonic() + MLFLOW_SECONDS
    while not re.search("MLflow is at|error:", command.said()) and time.monotonic() < end:
        time.sleep(0.05)
    return bench.check(command.end(MLFLOW_SECONDS), seconds=MLFLOW_SECONDS).printed


def test_ui_starts_on_a_database_that_was_damaged(bench: Bench) -> None:
    bench.fresh()
    assert "MLflow is at" in seen(bench)

    @given(st.data())
    @examples(1)
    def check(data: st.DataObject) -> None:
        spoil_database(bench, data)
        seen(bench)

    check()
