"""The machines that a cluster's autoscaler may add, from the file that Ray's launcher leaves on the head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from trainers import InputError
from trainers.stored import DamagedError, JsonFile
from trainers.yaml_text import plain_numbers, read_yaml

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # --autoscaling-config in cluster.yaml
MOST = 10_000  # machines; larger numbers are capped
Machines = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="allow"))
class NodeType(TypedDict):
    """A kind of machine that the autoscaler may start."""

    resources: NotRequired[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]]
    max_workers: NotRequired[Machines]


@with_config(ConfigDict(extra="allow"))
class Autoscaling(TypedDict, total=False):
    """The cluster configuration that Ray's launcher leaves on the head."""

    max_workers: Machines
    head_node_type: str
    available_node_types: dict[str, NodeType]


CONFIG = JsonFile[Autoscaling](Autoscaling)


def promised(file: Path = BOOTSTRAP) -> list[dict[str, float]]:
    """The resources of every machine that the autoscaler may add, one entry per machine. The limit applies to
    each kind by itself. Empty without an autoscaler, and on any machine but the head."""
    try:
        config = CONFIG.check(plain_numbers(read_yaml(file.expanduser(), "")))
    except (InputError, DamagedError):
        return []
    most = min(config.get("max_workers", 0), MOST)
    machines = []
    for name, kind in config.get("available_node_types", {}).items():
        resources = kind.get("resources", {})
        if name != config.get("head_node_type") and resources:
            machines += [resources] * min(most, kind.get("max_workers", most))
    return machines
