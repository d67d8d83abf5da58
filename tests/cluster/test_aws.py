"""`ray up cluster.yaml` against a mock of AWS, up to the point where it logs in by ssh."""

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
HOME = "203.0.113.7/32"
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
    """Environment variables for an empty account, a home with a token, and an ssh that reaches no machine."""
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
    """The account after its roles were created, after `ray up`, and with a worker as Ray's autoscaler requests it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in account.items():
            patch.setenv(name, value)
        roles = runpy.run_path(str(ROOT / "cluster" / "aws_roles.py"))
        client = boto3.client("ec2")
        open_to_the_world(client)
        roles["main"]("s3://bucket/opsctl", HOME, "198.51.100.0/24")
        roles["main"]("s3://bucket/opsctl", HOME)  # idempotent
        up = run(account, RAY, "up", "-y", "--no-config-cache", "cluster.yaml")
        assert "Launched a new head node" in up, up
        run(account, sys.executable, "-c", LAUNCH)
        yield client


def open_to_the_world(ec2: Any) -> None:
    """Leave a security group as Ray creates it, and a second network that is easily forgotten."""
    ec2.create_vpc(CidrBlock="10.9.0.0/16")
    (network,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    group = ec2.create_security_group(GroupName="opsctl", Description="Ray's", VpcId=network["VpcId"])
    ec2.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )


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


def test_one_head_starts_and_may_start_workers(ec2: Any) -> None:
    (head,) = machines(ec2, "head")
    assert head["InstanceType"] == "m7i.xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/opsctl-head")
    assert "InstanceLifecycle" not in head, "the head is not a spot instance"
    assert head["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_are_spot_instances_with_access_to_the_bucket(ec2: Any) -> None:
    (worker,) = machines(ec2, "gpu")
    assert worker["InstanceType"] == "g5.xlarge"
    assert worker.get("InstanceLifecycle") == "spot"
    assert worker["IamInstanceProfile"]["Arn"].endswith("/opsctl-worker")


def test_no_port_is_open_to_the_internet(ec2: Any) -> None:
    used = {
        group["GroupId"]
        for kind in ("head", "gpu")
        for one in machines(ec2, kind)
        for group in one["SecurityGroups"]
    }
    assert len(used) == 1, "head and workers are in one group"
    named = [{"Name": "group-name", "Values": ["opsctl"]}]
    groups = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    assert len(groups) == 2, "one in each network, because Ray may use either"
    assert used < {group["GroupId"] for group in groups}
    for group in groups:
        reached = [
            (rule["IpProtocol"], rule.get("FromPort"), block["CidrIp"])
            for rule in group["IpPermissions"]
            for block in rule["IpRanges"]
        ]
        assert reached == [("tcp", 22, HOME)], "earlier permissions are revoked"
        assert not any(rule.get("Ipv6Ranges") or rule.get("PrefixListIds") for rule in group["IpPermissions"])
        within = [
            pair["GroupId"] for rule in group["IpPermissions"] for pair in rule.get("UserIdGroupPairs", [])
        ]
        assert within == [group["GroupId"]]


def test_the_head_may_terminate_and_tag_only_its_own_machines(ec2: Any) -> None:
    policy = boto3.client("iam").get_role_policy(RoleName="opsctl-head", PolicyName="opsctl")
    rights = policy["PolicyDocument"]["Statement"]
    conditions = {
        action: [one.get("Condition") for one in rights if action in one["Action"]]
        for action in ("ec2:TerminateInstances", "ec2:CreateTags")
    }
    own = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": "opsctl"}}
    assert conditions["ec2:TerminateInstances"] == [own]
    assert conditions["ec2:CreateTags"] == [{"StringEquals": {"ec2:CreateAction": "RunInstances"}}, own]
    for kind in ("head", "gpu"):
        (machine,) = machines(ec2, kind)
        assert {"Key": "ray-cluster-name", "Value": "opsctl"} in machine["Tags"], (
            "the tag identifies its own machines"
        )


@pytest.mark.parametrize("address", ["everybody", "203.0.113.700"])
def test_an_invalid_address_is_an_error_of_the_roles_script(address: str) -> None:
    roles = runpy.run_path(str(ROOT / "cluster" / "aws_roles.py"))
    with pytest.raises(SystemExit, match=rf"{address}: write an address or a block of them"):
        roles["main"]("s3://bucket/opsctl", address)


def test_the_head_may_pass_only_the_role_of_workers(ec2: Any, account: dict[str, str]) -> None:
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


def test_a_role_may_list_only_the_store_in_the_bucket(ec2: Any) -> None:
    policy = boto3.client("iam").get_role_policy(RoleName="opsctl-worker", PolicyName="opsctl")
    (lists,) = [one for one in policy["PolicyDocument"]["Statement"] if "s3:ListBucket" in one["Action"]]
    assert lists["Condition"] == {"StringLike": {"s3:prefix": ["opsctl", "opsctl/", "opsctl/*"]}}
    assert lists["Action"] == ["s3:ListBucket"]


def test_the_image_is_a_parameter_that_aws_updates(ec2: Any) -> None:
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
