"""cluster.yaml and cluster/local.yaml are valid for Ray, contain no secret and open no port to the internet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.tracking.server import SETTINGS
from tests.conftest import ROOT

AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "cluster" / "local.yaml"
START = "start_ray_commands"
SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|[0-9a-f]{32}|password|secret_access_key", re.IGNORECASE)
both = pytest.mark.parametrize("file", [AWS, LOCAL], ids=["aws", "local"])


def read(file: Path) -> dict[str, Any]:
    config = yaml.safe_load(file.read_text())
    assert isinstance(config, dict)
    return config


def commands(config: dict[str, Any]) -> list[str]:
    """Every command that starts or stops Ray, on the head or on a worker."""
    found = [one for name in ("head", "worker") for one in config[f"{name}_{START}"]]
    return [one for one in found if re.search(r"\bray (start|stop)\b", one)]


@both
def test_the_file_matches_rays_schema(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(read(file), schema)
    validate_config(prepare_config(read(file)))


@both
def test_a_misspelt_key_fails_validation(file: Path) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute'"):
        jsonschema.validate(read(file) | {"idle_timeout_minute": 5}, schema)


@both
def test_every_ray_command_requires_tokens(file: Path) -> None:
    found = commands(read(file))
    assert len(found) == 4, "stop and start, on the head and on a worker"
    assert all("RAY_AUTH_MODE=token" in one for one in found)


@both
def test_the_token_is_copied_with_private_permissions(file: Path) -> None:
    config = read(file)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token", (
        "the user's, outside the repository"
    )
    for name in ("head", "worker"):
        assert config[f"{name}_{START}"][0] == "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token"


@both
def test_the_dashboard_listens_on_the_head_alone(file: Path) -> None:
    heads = [one for one in commands(read(file)) if "--head" in one]
    assert len(heads) == 1
    assert "--dashboard-host=127.0.0.1" in heads[0]
    assert "0.0.0.0" not in file.read_text()


@both
def test_no_secret_is_in_the_file(file: Path) -> None:
    assert SECRET.search(file.read_text()) is None


@both
def test_mounted_files_exist_and_suffice_for_an_installation(file: Path) -> None:
    mounts = {to: here for to, here in read(file)["file_mounts"].items() if to.startswith("~/opsctl/")}
    assert set(mounts.values()) >= {
        "trainers",
        "poisons",
        "orchestrator",
        "pyproject.toml",
        "constraints.txt",
    }
    assert all(to == f"~/opsctl/{here}" and (ROOT / here).exists() for to, here in mounts.items())
    installs = [one for one in read(file)["setup_commands"] if "pip install" in one]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]


def test_gpu_machines_start_on_demand_and_end_when_idle() -> None:
    config = read(AWS)
    gpu = config["available_node_types"]["gpu"]
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False, "terminated machines leave no disk to pay for"


def test_no_trial_runs_on_the_head() -> None:
    config = read(AWS)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0" in next(one for one in commands(config) if "--head" in one)


def test_the_file_opens_no_port_of_the_security_group() -> None:
    assert set(read(AWS)["provider"]["security_group"]) == {"GroupName"}, "no IpPermissions"


def test_machines_have_roles_instead_of_keys() -> None:
    types = read(AWS)["available_node_types"]
    roles = {name: one["node_config"]["IamInstanceProfile"] for name, one in types.items()}
    assert roles == {"head": {"Name": "opsctl-head"}, "gpu": {"Name": "opsctl-worker"}}
    assert all(one["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for one in types.values())


def test_mlflow_on_the_head_is_configured_as_by_opsctl_ui() -> None:
    (line,) = [one for one in read(AWS)[f"head_{START}"] if "mlflow server" in one]
    settings, command = line.split("nohup", 1)
    assert {f"{name}={value}" for name, value in SETTINGS.items()} <= set(settings.split())
    assert "--host 127.0.0.1 " in command


def test_both_files_start_ray_in_the_same_way() -> None:
    aws, local = commands(read(AWS)), commands(read(LOCAL))
    assert [one.replace(" --num-cpus=0", "") for one in aws] == local
