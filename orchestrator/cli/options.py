"""Options and arguments that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


File = Annotated[
    Path, typer.Argument(help="A sweep file, such as sweeps/quickstart.yaml.", show_default=False)
]


Files = Annotated[
    list[Path],
    typer.Argument(help="Sweep files, such as sweeps/quickstart.yaml.", show_default=False),
]


StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="OPSCTL_STORE",
        help="Where data sets and results are kept: a folder, or a URL such as s3://bucket/prefix.",
    ),
]


UriOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="OPSCTL_TRACKING_URI",
        help=(
            "MLflow's tracking store: sqlite:///file, http://server:5000, postgresql://... "
            "[default: sqlite:///STORE/mlflow.db]"
        ),
        show_default=False,
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        envvar="OPSCTL_SET",
        help=(
            "Change the sweep: a path of the trial (train.epochs=2), an axis (seed=[0,1]), "
            "run.*, report.* or probes.*. Repeatable."
        ),
        show_default=False,
    ),
]


AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_ADDRESS",
        help=(
            "An existing Ray cluster: auto or host:6379; its machines need opsctl and the store. "
            "[default: start Ray on this machine]"
        ),
        show_default=False,
    ),
]


TrackingWaitOption = Annotated[
    float,
    typer.Option(
        min=0,
        envvar="OPSCTL_TRACKING_WAIT",
        help="Seconds to wait, when the sweep has ended, for an MLflow that does not answer.",
    ),
]


DryRunOption = Annotated[
    bool, typer.Option("--dry-run", envvar="OPSCTL_DRY_RUN", help="Show the plan and stop.")
]


MaxConcurrentOption = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="OPSCTL_MAX_CONCURRENT", help="Trials at a time, at most.", show_default=False
    ),
]


GpusOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_GPUS_PER_TRIAL",
        help="Share of a GPU for each trial, such as 0.25, or auto: as much as it needs. "
        "[default: 1 where there is one]",
        show_default=False,
    ),
]


CpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        envvar="OPSCTL_CPUS_PER_TRIAL",
        help="Processors for each trial. [default: 1]",
        show_default=False,
    ),
]


KeyArgument = Annotated[
    str,
    typer.Argument(
        help="The beginning of a data set's key, or of its folder's name; opsctl cache ls lists them.",
        show_default=False,
    ),
]


STORE = "opsctl-store"


SOURCE = "digits"


class ExportForm(StrEnum):
    """How a data set is written for others."""

    image_folder = "image_folder"
    parquet = "parquet"
    npz = "npz"
    hf = "hf"


class HowApplied(StrEnum):
    """How float noise becomes whole levels."""

    signed = "signed"
    released_em = "released_em"
    released_ops = "released_ops"


class Format(StrEnum):
    """How a report is written."""

    table = "table"
    md = "md"
    latex = "latex"
    csv = "csv"
    trials_csv = "trials.csv"
    json = "json"
    svg = "svg"


FormatOption = Annotated[Format, typer.Option(envvar="OPSCTL_FORMAT", help="How to write it.")]


CompareOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        envvar="OPSCTL_COMPARE",
        help="Two columns to compare, seed by seed: em,ops tells ops minus em. Repeatable.",
        show_default=False,
    ),
]


HtmlOption = Annotated[
    Path | None,
    typer.Option(
        envvar="OPSCTL_HTML",
        help="Write all of it to one page there, with curves and pictures, and print nothing else.",
        show_default=False,
    ),
]


UiHostOption = Annotated[
    str,
    typer.Option(envvar="OPSCTL_UI_HOST", help="Address to listen on; loopback keeps it to this machine."),
]


UiPortOption = Annotated[
    int, typer.Option(min=1, max=65535, envvar="OPSCTL_UI_PORT", help="Port to listen on.")
]


AllowedHostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-hosts",
        envvar="OPSCTL_UI_ALLOWED_HOSTS",
        help="Names by which other machines reach this one, such as box.example.org; a request by any "
        "other name is refused. [default: --host, and this machine's own]",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a sweep is run, as the options of `sweep`, `retry` and `submit` say."""

    settings: list[str] | None
    max_concurrent: int | None
    gpus_per_trial: str | None
    cpus_per_trial: float | None
    tracking_uri: str | None
    tracking_wait: float
    address: str | None = None
    dry_run: bool = False

    def changes(self) -> list[str]:
        """What `--set` changes about the sweep, and the options that are fields of its `run`."""
        run = {
            "run.max_concurrent": self.max_concurrent,
            "run.gpus_per_trial": self.gpus_per_trial,
            "run.cpus_per_trial": self.cpus_per_trial,
        }
        options = [f"{path}={value}" for path, value in run.items() if value is not None]
        return [*(self.settings or []), *options]
