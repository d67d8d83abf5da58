"""The machines that a cluster may add are known before they exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from moto import mock_aws

from orchestrator.cluster.autoscaling import promised
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gpu_machines_of_cluster_yaml_count_before_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    with mock_aws():
        config = AWSNodeProvider.fillout_available_node_types_resources(config)
    left = tmp_path / "ray_bootstrap_config.yaml"
    left.write_text(yaml.safe_dump(config))
    found = promised(left)
    assert len(found) == config["max_workers"]
    assert {(machine["CPU"], machine["GPU"]) for machine in found} == {(4.0, 1.0)}


def test_without_a_bootstrap_file_no_machines_are_expected(tmp_path: Path) -> None:
    assert promised(tmp_path / "ray_bootstrap_config.yaml") == []


def test_a_cluster_of_existing_machines_adds_none(tmp_path: Path) -> None:
    assert promised(ROOT / "cluster" / "local.yaml") == []
