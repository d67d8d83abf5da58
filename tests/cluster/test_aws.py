"""`ray up cluster.yaml` against a mock of Amazon's servers, as far as it goes without a login."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
RAY = str(Path(sys.executable).with_name("ray"))
LAUNCH = """
import sys, yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
config = _bootstrap_config(yaml.safe_load(open("cluster.yaml")), no_config_cache=True)
provider = _get_node_provider(config["provider"], config["cluster_name"])
tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu", "ray-cluster-name": config["cluster_name"]}
provider.create_node(config["available_node_types"]["gpu"]["node_config"], tags, 1)
"""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An empty account, as the variables that lead to it; a home with a token; an ssh that reaches nobody."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a" * 64)
    ssh = home / "bin" / "ssh"  # the mock's addresses belong to strangers
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(home),
        "PATH": f"{ssh.parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_NODE_START_WAIT_S": "1",
    }
    server.stop()


@pytest.fixture(scope="module")
def ec2(account: dict[str, str]) -> Iterator[Any]:
    """The account after its roles were made, `ray up`, and a
    worker that Ray's autoscaler would ask for."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in account.items():
            patch.setenv(name, value)
        roles = runpy.run_path(str(ROOT / "cluster" / "aws_roles.py"))
        roles["main"]("s3://bucket/opsctl")
        roles["main"]("s3://bucket/opsctl")  # again is harmless
        client = boto3.client("ec2")
        up = run(account, RAY, "up", "-y", "--no-config-cache", "cluster.yaml")
        assert "Launched a new head node" in up, up
        run(account, sys.executable, "-c", LAUNCH)
        yield client


def run(account: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | account, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout + done.stderr


def machines(ec2: Any, kind: str) -> list[dict[str, Any]]:
    wanted = [{"Name": "tag:ray-user-node-type", "Values": [kind]}]
    return [
        one for group in ec2.describe_instances(Filters=wanted)["Reservations"] for one in group["Instances"]
    ]


def test_one_head_starts_with_the_right_to_start_others(ec2: Any) -> None:
    (head,) = machines(ec2, "head")
    assert head["InstanceType"] == "m7i.xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/opsctl-head")
    assert "InstanceLifecycle" not in head, "nobody takes the head away"
    assert head["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_are_spot_machines_that_may_use_the_bucket(ec2: Any) -> None:
    (worker,) = machines(ec2, "gpu")
    assert worker["InstanceType"] == "g5.xlarge"
    assert worker.get("InstanceLifecycle") == "spot"
    assert worker["IamInstanceProfile"]["Arn"].endswith("/opsctl-worker")


def test_the_world_reaches_nothing_but_ssh(ec2: Any) -> None:
    used = {
        group["GroupId"]
        for kind in ("head", "gpu")
        for one in machines(ec2, kind)
        for group in one["SecurityGroups"]
    }
    assert len(used) == 1, "head and workers are in one group"
    (group,) = ec2.describe_security_groups(GroupIds=list(used))["SecurityGroups"]
    assert group["GroupName"] == "opsctl"
    for rule in group["IpPermissions"]:
        if rule["IpRanges"] or rule.get("Ipv6Ranges") or rule.get("PrefixListIds"):
            assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
        else:
            assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def test_the_head_may_lend_the_workers_role_and_no_other(ec2: Any, account: dict[str, str]) -> None:
    iam = boto3.client("iam")
    rights = {
        name: iam.get_role_policy(RoleName=name, PolicyName="opsctl")["PolicyDocument"]["Statement"]
        for name in ("opsctl-head", "opsctl-worker")
    }
    lent = [one for one in rights["opsctl-head"] if "iam:PassRole" in one["Action"]]
    assert [one["Resource"].rpartition(":")[2] for one in lent] == ["role/opsctl-worker"]
    assert not any(
        action.startswith(("ec2:", "iam:")) for one in rights["opsctl-worker"] for action in one["Action"]
    )
    places = {one["Resource"] for one in rights["opsctl-worker"]}
    assert places == {"arn:aws:s3:::bucket", "arn:aws:s3:::bucket/opsctl/*"}


def test_the_image_is_a_name_that_amazon_keeps_up_to_date(ec2: Any) -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    images = {one["node_config"]["ImageId"] for one in config["available_node_types"].values()}
    assert len(images) == 1
    assert re.fullmatch(
        r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/[a-z0-9.-]+/latest/ami-id", images.pop()
    )


def test_ray_down_leaves_no_machine(ec2: Any, account: dict[str, str]) -> None:
    out = run(account, RAY, "down", "-y", "cluster.yaml")
    assert "No nodes remaining" in out
    assert {one["State"]["Name"] for kind in ("head", "gpu") for one in machines(ec2, kind)} == {"terminated"}
