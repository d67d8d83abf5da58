"""Commands print what they promise and answer a mistake with one message and exit code 2."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.execution.trial import run_trial
from orchestrator.storage.ledger import Ledger
from poisons import Store
from poisons.__main__ import main as poison_bare
from tests.conftest import CPU, ROOT, Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write
from trainers import Plugin
from trainers.__main__ import main as train_bare
from trainers.provenance import opsctl_version


def test_a_plan_counts_what_a_sweep_would_do(opsctl: Opsctl) -> None:
    code, out, _ = opsctl("plan", ROOT / "sweeps" / "width.yaml")
    assert code == 0
    assert "4 data sets to build, 54 trials to run, 0 trials already done, 54 in all" in out
    assert "Does a wider network follow the shortcut more, or less?" in out
    code, out, _ = opsctl("sweep", ROOT / "sweeps" / "quickstart.yaml", "--dry-run", "--set", "seed=[0]")
    assert code == 0
    assert "5 data sets to build, 8 trials to run" in out


def test_version_prints_the_version(opsctl: Opsctl) -> None:
    assert opsctl("--version")[:2] == (0, f"opsctl {opsctl_version()}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", opsctl_version() or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "a b"},
            "name: expected at most 100 letters, digits and _ . -, first a letter or digit, found 'a b'",
        ),
        ({"question": ""}, "question: expected text that is not empty, found ''"),
        ({"grid": {}}, "the grid is empty"),
        ({"grid": {"seed": []}}, "this axis has no values"),
        ({"grid": {"train.epoch": [1]}}, "unknown field: 'epoch'; did you mean 'epochs'"),
        ({"grid": {"data.poisn": ["ops"]}}, "unknown field: 'poisn'; did you mean 'poison'"),
        ({"grid": {"data.poison": ["osp"]}}, "unknown poison 'osp'; did you mean 'sep' or 'ops'"),
        ({"grid": {"data.poison": [{"kind": "em", "eps": 0.03}]}}, "write `8/255` or `1/2`, not 0.03"),
        (
            {"grid": {"data.poison": {"a": "ops", "b": ["ops"]}}},
            "two points are the same trial: (data.poison=a) and (data.poison=b); leave one of them out",
        ),
        (
            {"grid": {"data.poison": ["clean", "ops"], "data.ratio": [1.0, 0.5], "seed": [0]}},
            "two points are the same trial: (data.poison=clean, data.ratio=1.0, seed=0) and (data.poison=clean, "
            "data.ratio=0.5, seed=0); write `skip: [{data.poison: clean, data.ratio: '0.5'}]`",
        ),
        ({"grid": {"seed": list(range(400)), "train.epochs": list(range(1, 251))}}, "100,000 points"),
        (
            {"base": {"data": {"source": {"kind": "parquet", "train": "no/x", "test": "y"}}}},
            "no file at no/x",
        ),
        ({"base": {"data": {"source": {"kind": "parquet"}}}}, "data.source.train: this field is missing"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_mistake_is_one_message_and_exit_code_2(
    opsctl: Opsctl, tmp_path: Path, command: str, change: dict[str, Any], message: str
) -> None:
    code, out, err = opsctl(command, write(tmp_path, tiny(**change)))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err + out
    assert not list((tmp_path / "store" / "trials").glob("*")), "nothing was started"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "a sweep file is a mapping"),
        ("name: a\n\tb: c", "YAML takes no tabs"),
        ("a: b: c", "line 1"),
    ],
)
def test_yaml_that_is_not_a_sweep_is_an_error(
    opsctl: Opsctl, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    code, _, err = opsctl("plan", tmp_path / "bad.yaml")
    assert code == 2
    assert message in err


def test_unusable_stores_are_errors(opsctl: Opsctl, tmp_path: Path) -> None:
    file = write(tmp_path, tiny())
    (tmp_path / "plain").write_text("")
    code, _, err = opsctl("plan", file, "--store", tmp_path / "plain" / "store")
    assert (code, "cannot be written" in err) == (2, True)
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "store.json").write_text('{"format": 2}')
    code, _, err = opsctl("sweep", file, "--store", newer)
    assert (code, "upgrade opsctl" in err) == (2, True)
    code, _, err = opsctl("plan", tmp_path / "none.yaml")
    assert (code, "no file" in err) == (2, True)


def finished(tmp_path: Path) -> tuple[Path, Store]:
    """A sweep of four trials, of which two are done and one has failed."""
    store = Store(tmp_path / "store")
    plan = plan_of(tiny(), store)
    for task in plan.tasks[:2]:
        run_trial(task.trial, store, device=CPU)
    Ledger(store.where).fail(plan.tasks[2].key, {"error": "MemoryError: [no] more", "traceback": None})
    return write(tmp_path, tiny()), store


def test_status_and_report_read_the_results_of_the_store(opsctl: Opsctl, tmp_path: Path) -> None:
    file, _ = finished(tmp_path)
    code, out, _ = opsctl("status", file)
    assert code == 0
    assert "2 of 4 trials done, 1 failed, 1 missing" in out
    assert "MemoryError: [no] more" in out
    assert "failure.json" in out
    _, out, _ = opsctl("report", file)
    assert "Does it run?" in out
    assert "1 failed" in out
    _, out, _ = opsctl("report", file, "--format", "json")
    assert [cell["seeds"] for cell in json.loads(out)["cells"]] == [2, 0]
    _, out, _ = opsctl("report", file, "--format", "csv")
    assert [row["row"] for row in csv.DictReader(io.StringIO(out))] == ["clean", "ops"]
    _, out, _ = opsctl("report", file, "--format", "md")
    assert "| clean | " in out
    _, out, _ = opsctl("report", file, "--format", "svg")
    assert out.startswith("<svg")
    assert "Does it run?" in out.replace("&#160;", " ")
    assert "@font-face" not in out, "a figure loads no fonts"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_doubtful_results_are_named_by_report_and_status(opsctl: Opsctl, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = plan_of(tiny(), store)
    for i, task in enumerate(plan.tasks):
        warnings = ["gradients may be masked"] if i == 1 else []
        Ledger(store.where).publish(task.key, {"metrics": {"test/clean_acc": 0.5}, "warnings": warnings})
    file = write(tmp_path, tiny())
    assert "doubt: data.poison=clean, seed=1: gradients may be masked" in opsctl("report", file)[1]
    _, out, _ = opsctl("status", file)
    assert f"doubt  {plan.tasks[1].key} (data.poison=clean, seed=1): gradients may be masked" in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_track_sends_missing_trials_and_is_idempotent(opsctl: Opsctl, tmp_path: Path) -> None:
    file, _ = finished(tmp_path)
    out = opsctl("track", file)[1]
    assert "2 trials sent, 0 were there already" in out
    assert f"trials in MLflow: opsctl ui --store {tmp_path}/store, then http://127.0.0.1:5000/#/exp" in out
    assert "0 trials sent, 2 were there already" in opsctl("track", file)[1]
    code, _, err = opsctl("track", file, "--tracking-uri", "nonsense://x")
    assert (code, "no MLflow tracking store answers" in err) == (2, True)


def test_kinds_lists_every_member_with_its_fields(opsctl: Opsctl) -> None:
    _, out, _ = opsctl("kinds")
    members = [kind for base in Plugin.families.values() for kind in base.registry]
    assert len(members) > 40
    assert [kind for kind in members if kind not in out] == []
    for word in (
        "wide_resnet",
        "budget: {norm: Linf, eps: 8/255}",
        "train.optimizer: {kind: adamw, lr: 0.0005, weight_decay: 0.03}",
        "depth: 28",
        "pgd_at",
        "eps: 8/255",
        "image_folder",
        "root: required",
        "one_cycle",
    ):
        assert word in out
    for word in (
        "max_concurrent: none",
        "epochs: 200",
        "augmentations: [flip_crop]",
        "metric: test/clean_acc",
    ):
        assert word in out
    _, out, _ = opsctl("kinds", "poison")
    assert "objective: released" in out
    assert "wide_resnet" not in out
    code, _, err = opsctl("kinds", "poisons")
    assert (code, "unknown family or part of a sweep file: 'poisons'; did you mean 'poison'?" in err) == (
        2,
        True,
    )


def test_kinds_says_what_a_poison_needs_and_costs(opsctl: Opsctl) -> None:
    _, out, _ = opsctl("kinds", "poison")
    members = Plugin.families["poison"].registry.values()
    assert " ".join(out.split()).count("Needs") == len(members)
    for kind in ("em", "rem", "mi_ue", "tap", "sep"):
        _, page, _ = opsctl("kinds", "poison", kind)
        assert re.search(r"Needs [a-z ]+; bound: .* epochs of a ResNet-18", " ".join(page.split()))
    for kind in ("ops", "cuda", "random_noise"):
        _, page, _ = opsctl("kinds", "poison", kind)
        assert "Needs no network; bound: " in page
        assert "epochs" not in page


def test_kinds_says_what_a_defense_needs_and_costs(opsctl: Opsctl) -> None:
    defenses = Plugin.families["defense"].registry
    _, out, _ = opsctl("kinds", "defense")
    assert " ".join(out.split()).count("Needs") == len(defenses)
    for kind, words in (("pgd_at", "a step costs 7.7 plain ones"), ("coin", "adds no passes")):
        _, page, _ = opsctl("kinds", "defense", kind)
        assert f"Needs no clean images; {words}." in page
    _, page, _ = opsctl("kinds", "defense", "chain")
    assert "Needs what its parts need." in page
    _, page, _ = opsctl("kinds", "defense", "avatar")
    assert "computes as much as 331 epochs of a ResNet-18, 284 of them once for all data sets." in " ".join(
        page.split()
    )
    table = (ROOT / "docs" / "defenses.md").read_text()
    assert [kind for kind in defenses if f"`{kind}`" not in table] == []


def test_doctor_prints_what_is_installed(opsctl: Opsctl) -> None:
    code, out, _ = opsctl("doctor")
    assert code == 0
    for word in (
        "python",
        "torch",
        "ray",
        "mlflow",
        "processors",
        "disk",
        "store",
        "data digits",
        "data cifar10",
    ):
        assert word in out


def test_ui_without_a_database_says_what_to_do(opsctl: Opsctl) -> None:
    code, _, err = opsctl("ui")
    assert (code, "run a sweep first" in err) == (2, True)


def test_ui_rejects_unusable_addresses_and_ports(
    opsctl: Opsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, err = opsctl("ui", "--tracking-uri", "http://127.0.0.1:9")
    assert (code, "no MLflow tracking store answers at http://127.0.0.1:9" in err) == (2, True)
    code, _, err = opsctl("ui", "--tracking-uri", f"sqlite:///{tmp_path}/x.db", "--port", 5060)
    assert (code, "browsers refuse to open port 5060; choose another with --port" in err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = opsctl("ui", "--tracking-uri", f"sqlite:///{tmp_path}/x.db", "--port", port)
    assert (code, f"port {port} of 127.0.0.1 is in use" in err) == (2, True)


def test_user_text_is_printed_literally(opsctl: Opsctl, tmp_path: Path) -> None:
    _, out, _ = opsctl("plan", write(tmp_path, tiny(question="Does [em, ops] beat [clean]?")))
    assert "Does [em, ops] beat [clean]?" in out


def test_every_option_has_an_environment_variable(opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = opsctl("sweep", "--help")
    for name in (
        "STORE",
        "TRACKING_URI",
        "SET",
        "ADDRESS",
        "DRY_RUN",
        "MAX_CONCURRENT",
        "GPUS_PER_TRIAL",
        "CPUS_PER_TRIAL",
    ):
        assert f"OPSCTL_{name}" in out
    monkeypatch.setenv("OPSCTL_SET", "seed=[0] train.epochs=1")
    monkeypatch.setenv("OPSCTL_DRY_RUN", "1")
    code, out, _ = opsctl("sweep", ROOT / "sweeps" / "quickstart.yaml")
    assert code == 0
    assert "trials to run" in out


def test_shipped_yaml_has_no_tabs_and_no_duplicates() -> None:
    files = list((ROOT / "sweeps").rglob("*.yaml"))
    assert files
    assert all("\t" not in file.read_text() and yaml.safe_load(file.read_text()) for file in files)


def test_the_bare_commands_of_the_docs_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "platforms.md").read_text()
    commands = re.findall(r"^python -m ((?:poisons|trainers) .*?)\s*(?:#.*)?$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["poisons", "poisons", "trainers"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    Path("poison.json").write_text('{"source": "digits", "poison": "ops", "limit": 40}')
    Path("clean.json").write_text('{"source": "digits", "split": "test", "limit": 20}')
    Path("train.json").write_text('{"train": {"architecture": "lenet5", "epochs": 1}}')
    for command in commands:
        name, *words = command.split()
        assert {"poisons": poison_bare, "trainers": train_bare}[name](words) == 0
