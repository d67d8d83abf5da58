"""What machines of cluster.yaml may do in an AWS account, and who reaches them:
`python cluster/aws_roles.py s3://bucket/opsctl [203.0.113.7/32 ...]`.

Makes two roles, or brings them up to date, with an instance profile each: `opsctl-worker` may use and list
what lies below the store's address; `opsctl-head` may also start machines, with the worker's role and no
other, and end those of its cluster. And makes the machines' security group: all within it, and
ssh from the addresses given, by default the one that this is run from. Names and the region are
cluster.yaml's.
"""

from __future__ import annotations

import ipaddress
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import yaml

CONFIG = Path(__file__).parent.parent / "cluster.yaml"
MY_ADDRESS = "https://checkip.amazonaws.com"
HEAD, WORKER = "opsctl-head", "opsctl-worker"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
START = [
    "ec2:Describe*",
    "ec2:RunInstances",
    "ssm:GetParameters",  # the image is given as a parameter that names the newest one
]
INSTANCES = "arn:aws:ec2:*:*:instance/*"


def main(store: str, *addresses: str) -> None:
    """Make roles for a store at `s3://bucket/prefix`, and the group that `addresses` reach; what is there
    already is brought up to date."""
    parts = urlsplit(store)
    if parts.scheme != "s3" or not parts.netloc:
        raise SystemExit(f"{store}: write the store's address, such as s3://bucket/opsctl")
    config = yaml.safe_load(CONFIG.read_text())
    addresses = tuple(map(_block, addresses or [_my_address()]))
    bucket, prefix = f"arn:aws:s3:::{parts.netloc}", parts.path.strip("/")
    files = f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*"
    use = [
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], files),
        _list(bucket, prefix),
        _allow(["s3:GetBucketLocation"], bucket),
    ]
    iam = boto3.client("iam")
    worker = _role(iam, WORKER, use)
    _role(iam, HEAD, [*use, *_machines(config["cluster_name"]), _allow(["iam:PassRole"], worker)])
    print(f"{HEAD} and {WORKER} may use {store}")
    group = config["provider"]["security_group"]["GroupName"]
    _groups(boto3.client("ec2", region_name=config["provider"]["region"]), group, addresses)
    print(f"{', '.join(addresses)} may reach machines of the group {group} by ssh, and nobody else")


def _machines(cluster: str) -> list[dict[str, Any]]:
    """Start machines, and name and end those that the cluster started."""
    own = {"ec2:ResourceTag/ray-cluster-name": cluster}
    return [
        _allow(START, "*"),
        _allow(["ec2:CreateTags"], INSTANCES, {"ec2:CreateAction": "RunInstances"}),
        _allow(["ec2:CreateTags", "ec2:TerminateInstances"], INSTANCES, own),
    ]


def _allow(actions: list[str], resource: str, only: dict[str, str] | None = None) -> dict[str, Any]:
    condition = {"Condition": {"StringEquals": only}} if only else {}
    return {"Effect": "Allow", "Action": actions, "Resource": resource, **condition}


def _list(bucket: str, prefix: str) -> dict[str, Any]:
    """List what lies below `prefix` of a bucket; all of it if the store is the whole bucket."""
    statement = _allow(["s3:ListBucket"], bucket)
    below = {"s3:prefix": [prefix, f"{prefix}/", f"{prefix}/*"]}
    return statement | {"Condition": {"StringLike": below}} if prefix else statement


def _role(iam: Any, name: str, statements: list[dict[str, Any]]) -> str:
    """A role with these rights and an instance profile of the same name; its address."""
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=name, PolicyName="opsctl", PolicyDocument=json.dumps(policy))
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return role["Arn"]


def _groups(ec2: Any, name: str, addresses: tuple[str, ...]) -> None:
    """The group in each of the region's networks, as Ray takes one of them; of other rules it has none. Ray
    leaves a group that has rules alone, and would open one that it makes itself to the world."""
    for network in ec2.describe_vpcs()["Vpcs"]:
        there = [{"Name": "vpc-id", "Values": [network["VpcId"]]}, {"Name": "group-name", "Values": [name]}]
        found = ec2.describe_security_groups(Filters=there)["SecurityGroups"]
        if not found:
            ec2.create_security_group(GroupName=name, Description="opsctl", VpcId=network["VpcId"])
            found = ec2.describe_security_groups(Filters=there)["SecurityGroups"]
        (group,) = found
        if group["IpPermissions"]:
            ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=group["IpPermissions"])
        within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
        ec2.authorize_security_group_ingress(
            GroupId=group["GroupId"], IpPermissions=[within, *map(_ssh, addresses)]
        )


def _ssh(block: str) -> dict[str, Any]:
    kind, name = ("Ipv6Ranges", "CidrIpv6") if ":" in block else ("IpRanges", "CidrIp")
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, kind: [{name: block}]}


def _block(address: str) -> str:
    """An address, or a block of them, as Amazon writes it."""
    try:
        return str(ipaddress.ip_network(address, strict=False))
    except ValueError:
        raise SystemExit(f"{address}: write an address or a block of them, such as 203.0.113.7/32") from None


def _my_address() -> str:
    """The address that Amazon sees this machine at."""
    try:
        with urllib.request.urlopen(MY_ADDRESS, timeout=10) as answer:
            return str(answer.read().decode().strip())
    except OSError as error:
        raise SystemExit(
            f"{MY_ADDRESS} does not say which address this is ({error}): write it after the store's, such as "
            "203.0.113.7/32"
        ) from None


if __name__ == "__main__":
    main(*(sys.argv[1:] or [""]))
