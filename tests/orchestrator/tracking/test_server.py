"""The MLflow UI accepts requests from this machine, or to an allowed host name; other sites' pages cannot use it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.tracking import server as mlflow_server
from tests.chaos.cluster import free_port
from tests.chaos.yard import settled
from tests.conftest import Opsctl, finish, start
from tests.orchestrator.tracking.test_live import Server
from tests.test_sweep import wait_for
from trainers import InputError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "mlflow.db")
    yield server
    server.stop()


def search(port: int, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the first request of a page: a search for experiments."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/ajax-api/2.0/mlflow/experiments/search", skip_host=True)
    body = json.dumps({"max_results": 1}).encode()
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}


def test_its_own_page_is_served_and_cannot_be_framed_by_others(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{server.port}"
        status, headers = search(server.port, Host=own, Origin=f"http://{own}")
        assert status == 200
        assert headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize("host", ["evil.example.org", "10.0.0.5:80", "192.168.0.7"])
def test_a_foreign_host_header_is_rejected(server: Server, host: str) -> None:
    assert search(server.port, Host=host)[0] == 403


def test_a_request_from_another_sites_page_is_rejected(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert search(server.port, Host=own, Origin="http://evil.example.org")[0] == 403


def test_no_command_line_contains_the_database_address(server: Server) -> None:
    """It may hold a password, and every user of the machine can list processes."""
    top = psutil.Process(server.process.pid)
    lines = [" ".join(one.cmdline()) for one in (top, *top.children(recursive=True))]
    assert len(lines) > 1
    assert [line for line in lines if str(server.database) in line or "sqlite:" in line] == []
    assert search(server.port, Host=f"127.0.0.1:{server.port}")[0] == 200
    assert server.database.exists()


def test_an_environment_variable_does_not_disable_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
    server = Server(tmp_path / "mlflow.db")
    try:
        assert search(server.port, Host="evil.example.org")[0] == 403
    finally:
        server.stop()


def test_other_machines_can_use_the_allowed_names(tmp_path: Path) -> None:
    process = mlflow_server.serve(
        f"sqlite:///{tmp_path}/mlflow.db", host="0.0.0.0", port=5098, allowed=["box.example.org"]
    )
    try:
        assert mlflow_server.answers(process, "0.0.0.0", 5098, threading.Event())
        own = "box.example.org:5098"
        assert search(5098, Host=own, Origin=f"http://{own}")[0] == 200
        assert search(5098, Host="evil.example.org:5098")[0] == 403
    finally:
        mlflow_server.end(process)


def test_no_server_survives_a_killed_command(tmp_path: Path) -> None:
    """Neither MLflow's own process nor its worker."""
    port = free_port()
    database = f"sqlite:///{tmp_path}/mlflow.db"
    command = start("ui", "--port", port, "--tracking-uri", database, store=tmp_path)
    wait_for(command, "MLflow is at")
    inside = psutil.Process(command.pid).children(recursive=True)
    assert len(inside) > 1
    listening = {
        one.laddr.ip for process in inside for one in process.net_connections() if one.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}
    command.kill()
    command.communicate()
    assert settled(lambda: [process for process in inside if is_running(process)]) == []
    again = start("ui", "--port", port, "--tracking-uri", database, store=tmp_path)
    wait_for(again, "MLflow is at")
    again.terminate()
    code, out = finish(again)
    assert code == 0, out


def is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def test_listening_on_all_interfaces_requires_names() -> None:
    with pytest.raises(
        InputError, match=r"--host 0\.0\.0\.0 accepts connections from other machines: .* --allowed-hosts box"
    ):
        mlflow_server.served("0.0.0.0", 5000, [])
    with pytest.raises(InputError, match="list the names instead"):
        mlflow_server.served("0.0.0.0", 5000, ["*"])
    assert mlflow_server.served("10.0.0.5", 5000, []) == ["10.0.0.5", "10.0.0.5:5000"]
    assert "box:5000" in mlflow_server.served("127.0.0.1", 5000, ["box, b2:80"])


def test_a_link_names_a_host_that_a_browser_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlflow_server.address("127.0.0.1", 5000) == "http://127.0.0.1:5000"
    assert mlflow_server.address("::1", 5000) == "http://[::1]:5000"
    allowed = ["*.example.org, box.example.org", "10.0.0.5"]
    assert mlflow_server.address("0.0.0.0", 5000, allowed) == "http://box.example.org:5000"
    assert mlflow_server.address("0.0.0.0", 5000, ["box:80"]) == "http://box:80"
    monkeypatch.setenv("OPSCTL_UI_PORT", "5001")
    assert mlflow_server.usual_address() == "http://127.0.0.1:5001"


def test_the_command_reports_a_missing_database(opsctl: Opsctl, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/x.db"
    code, _, err = opsctl("ui", "--tracking-uri", uri, "--host", "0.0.0.0")
    assert (code, "--allowed-hosts" in err) == (2, True)
