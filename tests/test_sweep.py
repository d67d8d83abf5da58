"""Whole sweeps with real Ray, real MLflow and real processes: nothing runs twice or is lost, everything is reported."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.chaos.cluster import MEMORY, Node, free_port, tree
from tests.chaos.memory import ROOM, SPARE, taken, threshold, until
from tests.chaos.yard import settled
from tests.conftest import ROOT, finish, start
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from trainers import Images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]
LONG = {**TRAIN, "epochs": 60}  # some seconds a trial, long enough to be killed
RESULT = re.compile(r"trial +\d+/\d+ ([0-9a-f]{16}) \((.*?)\): [\d.]+ %")


def wait_for(process: subprocess.Popen[str], pattern: str, *, times: int = 1) -> list[str]:
    """Read the process's lines until `pattern` was seen `times` times."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if sum(bool(re.search(pattern, seen)) for seen in lines) >= times:
            return lines
    raise AssertionError(f"{pattern!r} never came:\n{''.join(lines)}")


def tracked(sweep: dict[str, Any], store: Path, uri: str | None = None) -> dict[str, list[str]]:
    """Status of every MLflow run of a sweep's experiment, by trial key."""
    from orchestrator.tracking import Tracker, default_uri

    stored = Store(store)
    runs = Tracker(uri or default_uri(store), plan_of(sweep, stored), stored).runs()
    return {key: [run.info.status for run in group] for key, group in runs.items()}


def finish_times(store: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in (store / "trials").glob("*/result.json")}


def left_over(store: Path) -> list[Path]:
    return [p for p in store.rglob("*") if ".tmp" in p.name or p.parent.name == "tune"]


def test_a_sweep_runs_once_with_the_numbers_of_single_trials(tmp_path: Path) -> None:
    from orchestrator.execution.trial import run_trial
    from tests.conftest import CPU

    store, sweep = tmp_path / "store", tiny(grid={"data.poison": ["clean", "ops"], "seed": [0, 1, 2]})
    file = write(tmp_path, sweep)
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert "3 data sets to build, 6 trials to run" in out
    keys = [task.key for task in plan_of(sweep, Store(store)).tasks]
    assert {key for key, _ in RESULT.findall(out)} == set(keys)
    assert "Does it run?" in out
    assert tracked(sweep, store) == {key: ["FINISHED"] for key in keys}
    assert left_over(store) == []

    before = finish_times(store)
    code, again = finish(start("sweep", file, store=store))
    assert code == 0, again
    assert RESULT.findall(again) == []
    assert finish_times(store) == before

    elsewhere = Store(tmp_path / "alone")
    trial = plan_of(sweep, elsewhere).tasks[4].trial
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = run_trial(trial, elsewhere, device=CPU)["history"]
    torch.set_num_threads(threads)
    record = Ledger(store).result(trial.key)
    assert record is not None
    assert record["history"] == alone


@pytest.mark.chaos
def test_a_killed_driver_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sweep = tiny(
        base={"data": {"limit": 300}, "train": LONG},
        grid={"data.poison": ["clean", "ops"], "seed": [0, 1, 2, 3]},
    )
    file = write(tmp_path, sweep)
    driver = start("sweep", file, store=store)
    wait_for(driver, r"trial +\d+/8", times=3)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = finish_times(store)
    assert 3 <= len(before) < 8
    for result in (store / "trials").glob("*/result.json"):
        json.loads(result.read_text())  # every one is complete

    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    after = finish_times(store)
    assert len(after) == 8
    assert {key: after[key] for key in before} == before, "no finished trial ran twice"
    late = {key for key, _ in RESULT.findall(out)}
    assert not late & set(before)
    assert tracked(sweep, store) == {key: ["FINISHED"] for key in after}, "each trial once"
    assert left_over(store) == []


def test_a_failing_trial_is_retried_and_reported_and_stops_no_other(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sweep = tiny(grid={"train.optimizer.lr": [0.05, 1e9], "seed": [0, 1]})
    sweep["base"] = {**sweep["base"], "train": {**TRAIN, "optimizer": "sgd"}}
    file = write(tmp_path, sweep)
    code, out = finish(start("sweep", file, store=store))
    assert code == 1, out
    assert "2 of 4 trials failed" in out
    assert "FAILED, DivergenceError: the training loss was not finite in epoch" in out
    assert "Traceback" not in out
    ledger, plan = Ledger(store), plan_of(sweep, Store(store))
    assert plan.missing == (), "trial faults are not run again"
    failures = [ledger.failure(task.key) for task in plan.failed]
    assert [failure["attempts"] for failure in failures if failure] == [2, 2], "retried once"
    assert all("DivergenceError" in failure["traceback"] for failure in failures if failure)
    statuses = tracked(sweep, store)
    assert sorted(status for (status,) in statuses.values()) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


def test_a_data_set_that_cannot_be_built_fails_only_its_own_trials(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "images"
    for split in ("train", "test"):
        (folder / split / "a").mkdir(parents=True)
        (folder / split / "a" / "0.png").write_bytes(b"torn")
    bad = {"kind": "image_folder", "root": str(folder)}
    sweep = tiny(grid={"data.source": {"good": "digits", "torn": bad}, "seed": [0, 1]})
    code, out = finish(start("sweep", write(tmp_path, sweep), store=store))
    assert code == 1, out
    assert "2 of 4 trials failed" in out
    assert "0.png is not an image that can be decoded" in out
    assert len(finish_times(store)) == 2
    code, out = finish(start("sweep", write(tmp_path, sweep), store=store))
    assert code == 1, out
    assert "2 of 2 trials failed" in out, "it also ends if nothing can run"


def test_images_are_restored_once_for_all_trials(tmp_path: Path) -> None:
    defenses = {"none": "erm", "D-VAE": {"kind": "d_vae", "width": 4, "latent": 8, "vae_epochs": 1}}
    base = {"data": {"limit": 60, "poison": "ops"}, "train": TRAIN, "evaluation": {"limit": 50}}
    store, sweep = tmp_path / "store", tiny(base=base, grid={"train.defense": defenses, "seed": [0, 1]})
    code, out = finish(start("sweep", write(tmp_path, sweep), store=store))
    assert code == 0, out
    assert "4 data sets to build, 4 trials to run" in out
    (name,) = (name for name in Store(store).records() if "-d_vae-" in name)
    records = [Ledger(store).result(task.key) for task in plan_of(sweep, Store(store)).tasks]
    assert [record["needs"][1] == name for record in records if record] == [False, False, True, True]
    assert list(tracked(sweep, store).values()) == [["FINISHED"]] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.chaos)])
def test_a_signal_ends_the_sweep_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid={"seed": [0, 1, 2, 3, 4, 5]})
    file = write(tmp_path, sweep)
    driver = start("sweep", file, store=store)
    wait_for(driver, r"trial +\d+/6", times=1)
    driver.send_signal(number)
    code, out = finish(driver, seconds=60)
    assert code == 130, out
    assert "interrupted" in out
    assert "Traceback" not in out
    done = finish_times(store)
    assert 1 <= len(done) < 6
    assert left_over(store) == []
    statuses = tracked(sweep, store)
    assert {key for key in statuses if statuses[key] == ["FINISHED"]} == set(done)
    assert {s for group in statuses.values() for s in group} <= {"FINISHED", "KILLED"}


def test_a_signal_during_a_build_ends_the_sweep(tmp_path: Path) -> None:
    em = {"kind": "em", "generator": "lenet5", "steps": 20, "max_rounds": 10_000, "stop_error": 0}
    sweep = tiny(grid={"data.poison": {"em": em}, "seed": [0, 1]})
    driver = start("sweep", write(tmp_path, sweep), store=tmp_path / "store")
    wait_for(driver, r"em-train-\w+: round 2")
    driver.send_signal(signal.SIGINT)
    code, out = finish(driver, seconds=60)
    assert code == 130, out
    assert finish_times(tmp_path / "store") == {}


def test_a_sweep_finishes_without_a_tracking_server(tmp_path: Path) -> None:
    store, sweep = tmp_path / "store", tiny(grid={"seed": [0, 1]})
    file = write(tmp_path, sweep)
    unreachable = {"OPSCTL_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    unreachable |= {"OPSCTL_TRACKING_WAIT": "1"}
    code, out = finish(start("sweep", file, store=store, **unreachable))
    assert code == 0, out
    assert "warning: no MLflow tracking store answers at http://127.0.0.1:9" in out
    assert "send them later with: opsctl track" in out
    assert len(finish_times(store)) == 2
    assert "2 trials sent, 0 were there already" in finish(start("track", file, store=store))[1]
    assert "0 trials sent, 2 were there already" in finish(start("track", file, store=store))[1]


@pytest.mark.chaos
def test_a_sweep_finishes_if_the_tracking_server_dies(tmp_path: Path) -> None:
    store, port = tmp_path / "store", 5099
    server = start("ui", "--port", port, "--tracking-uri", f"sqlite:///{tmp_path}/server.db", store=store)
    wait_for(server, f"MLflow is at http://127.0.0.1:{port}")
    uri = f"http://127.0.0.1:{port}"
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid={"seed": [0, 1, 2, 3]})
    driver = start(
        "sweep",
        write(tmp_path, sweep),
        store=store,
        OPSCTL_TRACKING_URI=uri,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
    )
    wait_for(driver, r"trial +\d+/4", times=2)
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)
    code, out = finish(driver)
    assert code == 0, out
    assert out.count("MLflow no longer answers") == 1
    assert "send them later with: opsctl track" in out
    direct = f"sqlite:///{tmp_path}/server.db"
    code, out = finish(start("track", tmp_path / "tiny.yaml", store=store, OPSCTL_TRACKING_URI=direct))
    assert code == 0, out
    statuses = tracked(sweep, store, direct)
    assert statuses == {key: ["FINISHED"] for key in finish_times(store)}
    assert len(statuses) == 4


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment variables for a separate Ray cluster with two CPUs and one pretended GPU."""
    port = free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    begin = ["--head", f"--port={port}", "--num-cpus=2", "--num-gpus=1", "--include-dashboard=false"]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    node = Node(begin, {**os.environ, **token, **quiet}, tmp_path / "ray.log")
    try:
        node.wait()
        yield {**token, "OPSCTL_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        node.kill()


def test_an_existing_cluster_is_used_and_left_running(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Nothing can be measured on the pretended GPU, so each trial gets all of it."""
    store, file = tmp_path / "store", write(tmp_path, tiny(grid={"seed": [0, 1]}))
    code, out = finish(start("sweep", file, "--gpus-per-trial", "auto", store=store, **cluster))
    assert code == 0, out
    assert len(finish_times(store)) == 2
    code, out = finish(
        start("sweep", file, "--set", "seed=[9]", "--cpus-per-trial", "64", store=store, **cluster)
    )
    assert code == 2, out
    assert "64 CPU asked for, but no machine has more than 2; see --cpus-per-trial" in out


@pytest.mark.chaos
def test_idle_workers_do_not_block_builders(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Trials take both CPUs and Tune keeps their workers for reuse while a data set is still to be built."""
    em = {"kind": "em", "generator": "lenet5", "steps": 1, "max_rounds": 1}
    slow = {
        "kind": "em",
        "generator": "lenet5",
        "steps": 20,
        "max_rounds": 10,
        "stop_error": 0,
        "batch_size": 50,
    }
    sweep = tiny(
        base={"data": {"limit": 300}, "train": TRAIN},
        grid={"data.poison": {"clean": "clean", "slow": slow, "chain": [slow, em]}, "seed": [0, 1]},
    )
    options = ["--gpus-per-trial", "0", "--cpus-per-trial", "2"]
    code, out = finish(start("sweep", write(tmp_path, sweep), *options, store=tmp_path / "store", **cluster))
    assert code == 0, out
    assert len(finish_times(tmp_path / "store")) == 6


def test_an_address_without_a_cluster_is_one_error(tmp_path: Path) -> None:
    driver = start("sweep", write(tmp_path, tiny()), "--address", "127.0.0.1:1", store=tmp_path / "store")
    code, out = finish(driver)
    assert code == 2, out
    assert "no Ray cluster answers at 127.0.0.1:1" in out
    assert "Traceback" not in out


@pytest.mark.chaos
def test_trials_start_before_every_data_set_is_built(tmp_path: Path) -> None:
    em = {
        "kind": "em",
        "generator": "lenet5",
        "steps": 20,
        "max_rounds": 1000,
        "stop_error": 0,
        "batch_size": 50,
    }
    sweep = tiny(
        base={"data": {"limit": 300}, "train": TRAIN},
        grid={"data.poison": {"em": em, "clean": "clean"}, "seed": [0]},
    )
    code, out = finish(start("sweep", write(tmp_path, sweep), store=tmp_path / "store"))
    assert code == 0, out
    events = [
        line for line in out.splitlines() if ("em-train" in line and "built" in line) or RESULT.search(line)
    ]
    assert "poison=clean" in events[0], events
    assert "built" in events[1], events


@pytest.mark.chaos
def test_data_sets_are_built_while_trials_run(tmp_path: Path) -> None:
    em = {"kind": "em", "generator": "lenet5", "steps": 5, "max_rounds": 3, "stop_error": 0, "batch_size": 50}
    grid = {"data.poison": {"clean": "clean", "em": em}, "seed": [0, 1, 2, 3, 4]}
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid=grid)
    code, out = finish(start("sweep", write(tmp_path, sweep), store=tmp_path / "store"))
    assert code == 0, out
    lines = out.splitlines()
    built = next(i for i, line in enumerate(lines) if "em-train" in line and "built" in line)
    last = max(i for i, line in enumerate(lines) if RESULT.search(line) and "poison=clean" in line)
    assert built < last, out


def test_python_m_orchestrator_runs_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0
    assert "quickstart.yaml" in run.stdout


def test_a_config_fault_stops_the_sweep_with_one_error(tmp_path: Path) -> None:
    """That a class has a single image, too few for the probe, is found only when a trial reads them."""
    store, file = tmp_path / "store", tmp_path / "rare.pt"
    x = torch.randint(256, (91, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Images(x, torch.arange(91) // 10, 10).save(file)
    rare = {"kind": "tensors", "train": str(file), "test": str(file)}
    sweep = tiny(
        base={"data": {"limit": 300}, "train": {**TRAIN, "epochs": 200}},
        grid={"data.source": {"fine": "digits", "wrong": rare}, "seed": [0]},
        probes=[{"kind": "linear_separability", "share": 0.9}],
    )
    code, out = finish(start("sweep", write(tmp_path, sweep), store=store))
    assert code == 2, out
    assert out.count("error:") == 1
    assert "Traceback" not in out
    assert "the sweep was stopped" in out
    assert [*(store / "leases").iterdir(), *(store / "drivers").iterdir()] == []


def test_opsctl_stop_ends_a_running_sweep(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid={"seed": [0, 1, 2, 3, 4, 5, 6, 7]})
    file = write(tmp_path, sweep)
    driver = start("sweep", file, store=store)
    wait_for(driver, r"trial +\d+/8", times=1)
    code, out = finish(start("status", file, store=store))
    assert re.search("runs +on .* trials run", out), out
    code, out = finish(start("stop", file, store=store))
    assert code == 0, out
    code, out = finish(driver, seconds=60)
    assert code == 130, out
    assert 1 <= len(finish_times(store)) < 8
    assert left_over(store) == []
    code, out = finish(start("stop", file, store=store))
    assert (code, "is not running" in out) == (0, True), out


def test_a_wrong_token_is_one_error_at_once(tmp_path: Path, cluster: dict[str, str]) -> None:
    file, wrong = write(tmp_path, tiny()), {**cluster, "RAY_AUTH_TOKEN": "b" * 64}
    code, out = finish(start("sweep", file, store=tmp_path / "store", **wrong))
    assert code == 2, out
    assert "refuses the token in RAY_AUTH_TOKEN" in out
    assert "Traceback" not in out


@pytest.mark.chaos
def test_a_guided_search_with_a_scheduler_tries_the_requested_number_of_cells(tmp_path: Path) -> None:
    store = tmp_path / "store"
    grid = {
        "train.optimizer.lr": [0.001, 0.003, 0.01, 0.03, 0.1],
        "data.poison": ["clean", "ops"],
        "seed": [0, 1],
    }
    run = {"search": "optuna", "num_samples": 3, "scheduler": "asha"}
    base = {"data": {"limit": 300}, "train": {**TRAIN, "epochs": 12, "optimizer": "sgd"}}
    file = write(tmp_path, tiny(base=base, grid=grid, run=run))
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    stopped = list((store / "trials").glob("*/stopped.json"))
    assert len(finish_times(store)) + len(stopped) == 3 * 2, out
    code, again = finish(start("sweep", file, store=store))
    assert code == 0, again
    assert RESULT.findall(again) == []


SHUFFLE = {"kind": "shuffle_test", "sets": {"shuffled": {"poison": "ops", "shuffled": True}}}


def findings_of(store: Path) -> dict[str, list[str]]:
    """The names of the probes with a finding, by trial."""
    found: dict[str, list[str]] = {}
    for file in sorted((store / "trials").glob("*/look-*.json")):
        found.setdefault(file.parent.name, []).append(json.loads(file.read_text())["look"])
    return {key: sorted(names) for key, names in found.items()}


def test_probes_run_with_the_training_and_a_later_one_uses_kept_weights(tmp_path: Path) -> None:
    from orchestrator.tracking import Tracker, default_uri

    store, grid = tmp_path / "store", {"data.poison": ["clean", "ops"], "seed": [0]}
    sweep = tiny(grid=grid, probes=["distance", SHUFFLE], run={"keep": "weights"})
    sweep["report"] = {"metrics": {"moved": "distance/relative", "fooled": "shuffle_test/shuffled_acc"}}
    file = write(tmp_path, sweep)
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert "4 data sets to build, 2 trials to run" in out
    keys = [task.key for task in plan_of(sweep, Store(store)).tasks]
    assert findings_of(store) == {key: ["distance", "shuffle_test"] for key in keys}
    before = {place: place.read_bytes() for place in (store / "trials").glob("*/*.json")}

    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert RESULT.findall(out) == []
    sweep["probes"] = [*sweep["probes"], {"kind": "loss_surface", "points": 3, "limit": 20}]
    code, out = finish(start("sweep", write(tmp_path, sweep), store=store))
    assert code == 0, out
    assert {key for key, _ in RESULT.findall(out)} == set(keys)
    assert findings_of(store) == {key: ["distance", "loss_surface", "shuffle_test"] for key in keys}
    assert {place: place.read_bytes() for place in before} == before
    new = [json.loads(p.read_text()) for p in (store / "trials").glob("*/look-*.json") if p not in before]
    assert [record["of"] for record in new] == ["kept weights"] * 2, "nothing was trained"
    assert left_over(store) == []

    stored = Store(store)
    runs = Tracker(default_uri(store), plan_of(sweep, stored), stored).runs()
    assert {key: [run.info.status for run in group] for key, group in runs.items()} == {
        key: ["FINISHED"] for key in keys
    }
    sent = {name for (run,) in runs.values() for name in run.data.metrics}
    assert sent >= {"distance/relative", "shuffle_test/shuffled_acc", "loss_surface/sharpness"}


def test_a_probe_added_to_a_finished_sweep_keeps_its_results_and_trains_nothing(tmp_path: Path) -> None:
    store, grid = tmp_path / "store", {"data.poison": ["clean", "ops"], "seed": [0, 1]}
    sweep = tiny(grid=grid)
    file = write(tmp_path, sweep)
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    weights = {file: file.read_bytes() for file in (store / "trials").glob("*/weights.pt")}
    assert len(weights) == 4, "they are kept by default"
    before = finish_times(store)
    _, plain = finish(start("report", file, store=store))
    (cells,) = {tuple(re.findall(r"[\d.]+ ± [\d.]+", plain))}
    assert len(cells) == 2

    sweep["probes"] = [{"kind": "loss_surface", "points": 3, "limit": 20}]
    write(tmp_path, sweep)
    _, out = finish(start("status", file, store=store))
    assert "4 of 4 trials done, 4 lack loss_surface, 0 failed, 0 missing" in out
    _, out = finish(start("report", file, store=store))
    assert tuple(re.findall(r"[\d.]+ ± [\d.]+", out))[:2] == cells
    assert "not run" not in out
    _, out = finish(start("plan", file, store=store))
    assert "0 data sets to build, 0 trials to run, 4 to probe from kept weights, 4 trials already done" in out
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert out.count(", probed: loss_surface") == 4
    assert finish_times(store) == before
    assert {file: file.read_bytes() for file in weights} == weights
    found = [json.loads(file.read_text()) for file in (store / "trials").glob("*/look-*.json")]
    assert [record["of"] for record in found] == ["kept weights"] * 4, "nothing was trained"
    _, out = finish(start("status", file, store=store))
    assert "4 of 4 trials done, 0 failed, 0 missing" in out

    sweep["probes"] = [*sweep["probes"], "distance"]
    write(tmp_path, sweep)
    _, out = finish(start("plan", file, store=store))
    assert (
        "4 trials must be trained again because distance needs every epoch (kept weights are too late)" in out
    )


@pytest.mark.parametrize(("run", "kept"), [({"keep": "none"}, 0), ({"keep_gb": 0.0006}, 2)])
def test_a_sweep_keeps_the_weights_that_its_plan_announces(
    tmp_path: Path, run: dict[str, Any], kept: int
) -> None:
    store, file = tmp_path / "store", write(tmp_path, tiny(run=run))
    _, out = finish(start("plan", file, store=store))
    assert ("no weights are kept" if kept == 0 else "weights of 2 of 4 trials will be kept on disk") in out
    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert len(list((store / "trials").glob("*/weights.pt"))) == kept
    probes = [{"kind": "loss_surface", "points": 3, "limit": 20}]
    _, out = finish(start("plan", write(tmp_path, tiny(run=run, probes=probes)), store=store))
    assert f"{4 - kept} trials must be trained again because their weights were not kept" in out


@pytest.mark.chaos
def test_a_driver_killed_during_a_probe_loses_nothing(tmp_path: Path) -> None:
    """The first finding is published and the second probe takes seconds: the training must not be repeated."""
    import torch

    store = tmp_path / "store"
    surface = {"kind": "loss_surface", "points": 31, "limit": 60}
    sweep = tiny(grid={"seed": [0]}, probes=["distance", surface])
    file, trial = write(tmp_path, sweep), plan_of(sweep, Store(store)).tasks[0].trial
    driver = start("sweep", file, store=store)
    deadline = time.monotonic() + 120
    while findings_of(store) != {trial.key: ["distance"]}:
        assert time.monotonic() < deadline, findings_of(store)
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    folder = store / "trials" / trial.key
    assert not (folder / "result.json").exists()
    kept = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
    assert len(kept["history"]) == trial.train.epochs
    (first,) = folder.glob("look-*.json")
    before = first.read_bytes()

    code, out = finish(start("sweep", file, store=store))
    assert code == 0, out
    assert findings_of(store) == {trial.key: ["distance", "loss_surface"]}
    assert first.read_bytes() == before
    record = Ledger(store).result(trial.key)
    assert record is not None
    assert record["history"] == kept["history"]
    assert not (folder / "checkpoint.pt").exists()
    assert left_over(store) == []


def test_a_local_sweep_listens_on_loopback_only_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's daemons, agents and workers listen on loopback; its token is private; its folder is removed."""
    home, temporary, store = tmp_path / "home", Path(tempfile.mkdtemp(prefix="oc-")), tmp_path / "store"
    home.mkdir()
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid={"seed": [0, 1]})
    options = {"HOME": str(home), "TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
    driver = start("sweep", write(tmp_path, sweep), store=store, **options)
    try:
        wait_for(driver, r"trial +1/2")
        found = [process for process in tree(driver.pid) if process.is_running()]
        listening = {
            (process.name(), one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
            for process in found
            for one in process.net_connections(kind="inet")
            if one.status == psutil.CONN_LISTEN
        }
        assert len(listening) > 5, "Ray's sockets were found"
        assert [one for one in listening if not ipaddress.ip_address(one[1]).is_loopback] == []
        assert (home / ".ray").stat().st_mode & 0o777 == 0o700
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
        assert len(list(temporary.glob("opsctl-*/r/session_2*"))) == 1
        assert {path.stat().st_mode & 0o777 for path in temporary.glob("opsctl-*")} == {0o700}
        code, out = finish(driver)
        assert code == 0, out
        assert settled(lambda: [*temporary.glob("opsctl-*"), *temporary.glob("ray*")]) == []
    finally:
        driver.kill()
        driver.communicate()
        shutil.rmtree(temporary, ignore_errors=True)


def test_workers_killed_for_memory_lose_no_trial(tmp_path: Path) -> None:
    """Ray's memory monitor kills workers while memory is short; Tune alone would stop."""
    if (share := threshold()) is None:
        pytest.skip(f"needs {(ROOM + SPARE) // 2**30} GiB of free memory")
    seeds = list(range(8))  # enough to go on until memory is filled, which takes some seconds
    sweep = tiny(base={"data": {"limit": 300}, "train": LONG}, grid={"seed": seeds})
    log = tmp_path / "log"
    with log.open("wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "sweep", str(write(tmp_path, sweep))],
            env={**os.environ, "OPSCTL_STORE": str(tmp_path / "store"), "COLUMNS": "200", MEMORY: str(share)},
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        try:
            assert until(lambda: RESULT.search(log.read_text()) is not None), log.read_text()
            with taken(share):
                assert until(lambda: "ran out of memory" in log.read_text()), log.read_text()
            code = driver.wait(300)
        finally:
            driver.kill()
            driver.wait()
    output = log.read_text()
    assert code == 0, output
    assert "Traceback" not in output
    assert len(finish_times(tmp_path / "store")) == len(seeds)
