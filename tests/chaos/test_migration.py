"""If a process is killed while MLflow creates or migrates its database, the next command finds it complete."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.execution.trial import run_trial
from poisons import Store
from tests.chaos.play import ROWS, RUNS, SEED
from tests.conftest import CPU, finish, start
from tests.orchestrator.sweeps import plan_of, tiny, write
from tests.orchestrator.tracking.test_schema import beside, make_older

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
SIZES = (
    1,
    60_000,
    200_000,
    400_000,
    520_000,
    600_000,
)  # bytes of the database at which its creator is killed


def nothing(file: Path) -> None:
    """There is no database yet."""
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("before", [nothing, make_older])
def test_a_kill_at_any_moment_leaves_a_complete_database(
    tmp_path: Path, before: Callable[[Path], None]
) -> None:
    seed, begun = int(SEED or time.time_ns() % 2**31), time.monotonic()
    print(f"OPSCTL_CHAOS_SEED={seed}")
    chance, sweep, store = random.Random(seed), tiny(grid={"seed": [0]}), Store(tmp_path / "store")
    for task in plan_of(sweep, store).tasks:
        run_trial(task.trial, store, device=CPU)
    words, database = ("track", write(tmp_path, sweep)), store.root / "mlflow.db"
    damaged, kills = 0, 0
    for _ in range(RUNS):
        for size in chance.sample(SIZES, len(SIZES)):
            before(database)
            maker = start(*words, store=store.root)
            new = database.with_name(f"mlflow.db.new-{maker.pid}")
            while maker.poll() is None and not (new.exists() and new.stat().st_size >= size):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            maker.kill()
            maker.communicate()
            kills += 1
            code, out = finish(start(*words, store=store.root))
            damaged += code != 0 or "was damaged" in out or "there already" not in out
            assert not [name for name in beside(database) if ".new-" in name]
    ROWS.append(
        {
            "passed": not damaged,
            "seconds": round(time.monotonic() - begun),
            "faults": {"kill_migration": kills},
        }
    )
    assert damaged == 0
