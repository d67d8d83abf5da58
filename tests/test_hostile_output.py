"""Content of files, stores and command lines is printed as text, in a terminal and in every format of a report, never
as markup, a formula or an escape sequence, and passwords in URLs are hidden."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
from PIL import Image

from orchestrator.cluster.submit import prepare
from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import make_plan
from orchestrator.planning.snapshot import version_of
from orchestrator.planning.spec import SweepSpec
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import local_folder, open_storage
from orchestrator.tracking.payloads import params
from poisons import Store
from poisons.durable import write_output
from tests.conftest import CPU, ROOT, Opsctl
from tests.orchestrator.sweeps import TRAIN, tiny, write
from tests.poisons.test_sources import write_parquet
from trainers import InputError
from trainers.printable import UNPRINTABLE
from trainers.redaction import redacted

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b\u202e"
MARKUP = r"[red][/b]<script>alert(1)</script>\input{/etc/passwd}"
FORMULA = '=HYPERLINK("x")'
PASSWORD = "hunter2PASSWORD"
URL = f"http://user:{PASSWORD}@127.0.0.1:1/x"
HOSTILE = f"{FORMULA} {MARKUP} {ESCAPES} {URL}"


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Store]:
    """A running sweep whose question, labels, claims, warnings and failures are hostile. A sweep file cannot hold all
    of that, but the store of another user can."""
    label = f"{FORMULA} {MARKUP}"
    grid = {"data.poison": {"clean": "clean", label: "ops"}, "seed": [0, 1]}
    claims = [{"says": HOSTILE, "lower": {"data.poison": label}, "higher": {"data.poison": "clean"}}]
    spec = tiny(question=HOSTILE, grid=grid, report={"claims": claims, "rows": "data.poison"})
    file, store = write(tmp_path, tiny()), Store(tmp_path / "store")
    ledger = Ledger(store.where)
    plan = make_plan(SweepSpec.parse(spec, "test"), store, "test")
    plan.snapshot.keep(ledger.storage, version_of(file) or "")
    for i, task in enumerate(plan.tasks[:3]):
        if i == 1:
            ledger.fail(task.key, {"error": HOSTILE, "traceback": None, "kind": HOSTILE})
        else:
            record = run_trial(task.trial, store, device=CPU)
            (store.root / "trials" / task.key / "result.json").unlink()
            ledger.publish(task.key, {**record, "warnings": [HOSTILE], "device": HOSTILE})
    return file, store


def clean(text: str) -> bool:
    return not UNPRINTABLE.search(text) and PASSWORD not in text


FORMS = ("table", "md", "latex", "csv", "trials.csv", "json", "svg")


@pytest.mark.parametrize("form", FORMS)
def test_a_report_treats_all_content_as_text(opsctl: Opsctl, hostile: tuple[Path, Store], form: str) -> None:
    code, out, err = opsctl("report", hostile[0], "--format", form)
    assert (code, err) == (0, "")
    assert clean(out)
    assert "HYPERLINK" in out
    if form == "svg":
        ElementTree.fromstring(out)
    if form == "md":
        assert not re.search(r"(?<!\\)(<script|\[red\])", out)
    if form == "latex":
        assert "\\input" not in out
    if "csv" in form:
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        assert any(cell.startswith("'=HYPERLINK") for cell in cells) or form == "csv"
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
    if form == "json":
        assert json.loads(out)["question"] == redacted(HOSTILE), "JSON escapes what it holds"


def test_status_treats_all_content_as_text(opsctl: Opsctl, hostile: tuple[Path, Store]) -> None:
    file, store = hostile
    claims = {"needs": [], "snapshot": ""}
    with Driver(Ledger(store.where).storage, "tiny", threading.Event(), **claims) as driver:
        heartbeat = store.root / "drivers" / f"{driver.id}.json"
        heartbeat.write_text(json.dumps(json.loads(heartbeat.read_text()) | {"host": f"box\n[red]{ESCAPES}"}))
        code, out, err = opsctl("status", file)
    assert (code, err) == (0, "")
    assert clean(out)
    assert r"on box\n[red]\x1b]0;title\x07\x1b[2J\x9b\u202e (process" in out
    assert "[red][/b]<script>" in out


def test_a_page_treats_all_content_as_text(
    opsctl: Opsctl, hostile: tuple[Path, Store], tmp_path: Path
) -> None:
    for name in ("page.html", "page.json"):
        assert opsctl("report", hostile[0], "--html", tmp_path / name)[0] == 0
        assert PASSWORD not in (tmp_path / name).read_text()
    page = (tmp_path / "page.html").read_text()
    assert not UNPRINTABLE.search(page)
    assert "<script>alert" not in page
    assert r"\x1b]0;title" in page


@pytest.mark.parametrize("name", ["s[/b]", "s[red]x", "\x1b[2J", "[", "a\\", "🙂:smile:"])
def test_a_path_may_have_any_name(opsctl: Opsctl, tmp_path: Path, name: str) -> None:
    file = write(tmp_path, tiny())
    commands = [
        ("stop", "--all", "--store", tmp_path / name),
        ("plan", file, "--store", tmp_path / name),
        ("status", file, "--store", tmp_path / name),
        ("report", file, "--store", tmp_path / name),
        ("cache", "ls", "--store", tmp_path / name),
        ("cache", "verify", "--store", tmp_path / name),
        ("cache", "gc", "--store", tmp_path / name),
        ("show", "none", "--store", tmp_path / name),
        ("ui", "--store", tmp_path / name),
        ("import", tmp_path / name / "x.npy", "--store", tmp_path / name),
        ("plan", tmp_path / f"{name}.yaml"),
        ("kinds", name),
    ]
    for command in commands:
        code, out, err = opsctl(*command)
        assert code in (0, 2), (command, err)
        assert not UNPRINTABLE.search(out + err), command
        assert "Traceback" not in out + err, command
    assert name.isprintable() is (name in opsctl("stop", "--all", "--store", tmp_path / name)[1])


def test_control_characters_in_a_sweep_file_are_refused(opsctl: Opsctl, tmp_path: Path) -> None:
    for label in ('"a\\x1b[2J"', '"a\\u202eb"', '"\\0"'):
        file = tmp_path / "bad.yaml"
        file.write_text(f"name: a\nquestion: b?\ngrid:\n  data.poison: {{{label}: ops}}\n")
        code, _, err = opsctl("plan", file)
        assert (code, err.count("error:")) == (2, 1)
        assert "is a character that cannot be shown: leave it out" in err


# -- passwords


@pytest.mark.parametrize(
    "arguments",
    [
        ("--store", URL),
        ("--store", f"nothing://key:{PASSWORD}@bucket/x"),
        ("--store", f"http://127.0.0.1:1/x?X-Amz-Signature={PASSWORD}"),
        ("--set", f"data.source={{kind: parquet, train: '{URL}/a.parquet', test: '{URL}/b.parquet'}}"),
        ("--set", f"data.source={{kind: parquet, train: '{URL}', tset: '{URL}'}}"),
        ("--set", f"data.nothing={URL}"),
    ],
)
def test_no_error_contains_a_password(
    opsctl: Opsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]
) -> None:
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    for command in ("plan", "status"):
        code, out, err = opsctl(command, write(tmp_path, tiny()), *arguments)
        assert code in (1, 2)
        assert err.startswith("error: ")
        assert PASSWORD not in out + err
    assert not [path for path in tmp_path.rglob("*") if PASSWORD in path.name]


@pytest.mark.parametrize(
    "uri",
    [
        URL,
        f"postgresql://127.0.0.1:1/db?user=u&password={PASSWORD}",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db",
    ],
)
def test_no_command_prints_the_password_of_a_tracking_store(
    opsctl: Opsctl, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file, _ = write(tmp_path, tiny()), Store(tmp_path / "store")
    for command in ("track", "ui"):
        arguments = [file] if command == "track" else []
        code, out, err = opsctl(command, *arguments, "--tracking-uri", uri)
        assert (code, PASSWORD in out + err) == (2, False), err


def test_a_cache_folder_is_not_named_after_a_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path))
    assert local_folder("s3://bucket/prefix").name == "s3-bucket-prefix-9737a7d8"
    first, second = (local_folder(f"s3://key:{secret}@bucket/prefix") for secret in (PASSWORD, "another"))
    assert first == second, "a changed password does not mean another store"
    assert PASSWORD not in str(first)
    assert len({local_folder(f"s3://{name}") for name in ("b/a", "b/b", "k:p@b/a")}) == 3


def test_a_storage_error_contains_no_password() -> None:
    storage = open_storage(f"memory://user:{PASSWORD}@x")
    assert PASSWORD not in storage.shown
    with pytest.raises(
        InputError, match=r"^s3:/user:\*\*\*@x is neither a path nor a URL; write s3://user:\*\*\*@x$"
    ):
        open_storage(f"s3:/user:{PASSWORD}@x")


def test_an_internal_error_is_shown_without_passwords() -> None:
    code = f"from orchestrator.cli import entry\ndef app(): raise RuntimeError({HOSTILE!r})\nentry.app = app\nentry.main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1
    assert "RuntimeError: =HYPERLINK" in run.stderr
    assert clean(run.stderr.replace(repr(HOSTILE), ""))


def test_the_password_of_a_source_is_used_and_never_stored(tmp_path: Path) -> None:
    place = f"memory://user:{PASSWORD}@set/images.parquet"
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(40):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(sink, "PNG")
        encoded.append(sink.getvalue())
    write_parquet(tmp_path / "images.parquet", encoded, [i % 4 for i in range(40)])
    with fsspec.open(place, "wb") as out:
        out.write((tmp_path / "images.parquet").read_bytes())
    source = {"kind": "parquet", "train": place, "test": place}
    store = Store(tmp_path / "store")
    spec = tiny(base={"data": {"source": source}, "train": TRAIN}, grid={"seed": [0], "data.poison": ["ops"]})
    (task,) = make_plan(SweepSpec.parse(spec, "test"), store, "test").tasks
    record = run_trial(task.trial, store, device=CPU)
    assert record["spec"]["data"]["source"]["train"] == "memory://user:***@set/images.parquet"
    assert {param.value for param in params(task.trial) if param.key == "data.source.train"} == {
        "memory://user:***@set/images.parquet"
    }
    assert Ledger(store.where).result(task.key), "the password is not part of the key"
    assert store.find("parquet-ops").key == task.trial.data.key
    kept = [file for file in store.root.rglob("*") if file.is_file()]
    assert len(kept) > 5
    assert not [file for file in kept if PASSWORD.encode() in file.read_bytes()]


def test_a_job_of_a_cluster_gets_no_password(tmp_path: Path) -> None:
    file = write(tmp_path, tiny())
    given = [
        {"store": f"s3://key:{PASSWORD}@bucket/x", "settings": []},
        {"store": f"http://h/x?X-Amz-Signature={PASSWORD}", "settings": []},
        {"store": "/shared", "settings": [f"data.source={{kind: parquet, train: '{URL}', test: x}}"]},
        {"store": "/shared", "settings": [], "tracking_uri": f"postgresql://h/db?password={PASSWORD}"},
    ]
    for options in given:
        with pytest.raises(
            InputError, match="holds a password or a token, which the cluster's dashboard"
        ) as error:
            prepare(file, **options)  # type: ignore[arg-type]
        assert PASSWORD not in str(error.value)


def test_a_page_overwrites_a_page_and_nothing_else(tmp_path: Path) -> None:
    """`--html *.yaml` gives the first sweep as the page's name."""
    page, sweep = tmp_path / "page.html", tmp_path / "a.yaml"
    sweep.write_text("name: a\n")
    for _ in range(2):
        write_output(page, b"<!doctype html>")
    with pytest.raises(InputError, match=r"a\.yaml exists and is another kind of file, so it stays"):
        write_output(sweep, b"<!doctype html>")
    assert sweep.read_text() == "name: a\n"
    with pytest.raises(InputError, match="is a folder: write the name of a file in it"):
        write_output(tmp_path, b"<!doctype html>")


def test_a_store_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="the store has no name: write a folder"):
        open_storage(" ")
