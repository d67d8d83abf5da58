"""What machines of cluster.yaml may do in an AWS account: `python cluster/aws_roles.py s3://bucket/opsctl`.

Makes two roles, or brings them up to date, with an instance profile each: `opsctl-worker` may use what lies
below the store's address; `opsctl-head` may also start and end machines, with the worker's role and no other.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlsplit

import boto3

HEAD, WORKER = "opsctl-head", "opsctl-worker"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
MACHINES = [
    "ec2:CreateTags",
    "ec2:Describe*",
    "ec2:RunInstances",
    "ec2:TerminateInstances",
    "ssm:GetParameters",  # the image's name stands for the newest image
]


def main(store: str) -> None:
    """Make the two roles for a store at `s3://bucket/prefix`; what is there already is brought up to date."""
    parts = urlsplit(store)
    if parts.scheme != "s3" or not parts.netloc:
        raise SystemExit(f"{store}: write the store's address, such as s3://bucket/opsctl")
    bucket, prefix = f"arn:aws:s3:::{parts.netloc}", parts.path.strip("/")
    files = f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*"
    use = [
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], files),
        _allow(["s3:ListBucket", "s3:GetBucketLocation"], bucket),
    ]
    iam = boto3.client("iam")
    worker = _role(iam, WORKER, use)
    _role(iam, HEAD, [*use, _allow(MACHINES, "*"), _allow(["iam:PassRole"], worker)])
    print(f"{HEAD} and {WORKER} may use {store}")


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


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


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
