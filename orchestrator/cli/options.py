"""Options and arguments that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
        help="Where data sets and results are stored: a folder, or a URL such as s3://bucket/prefix.",
    ),
]


UriOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="OPSCTL_TRACKING_URI",
        help="MLflow's tracking store: sqlite:///file, http://server:5000, postgresql://...",
        show_default="sqlite:///STORE/mlflow.db",
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        envvar="OPSCTL_SET",
        help=(
            "Override a setting of the sweep: a field of the trial (train.epochs=2), an axis (seed=[0,1]), "
            "run.*, report.* or probes.*. Repeatable."
        ),
        show_default=False,
    ),
]


AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_ADDRESS",
        help="An existing Ray cluster: auto or host:6379. Its machines need opsctl and access to the store.",
        show_default="start Ray on this machine",
    ),
]


TrackingWaitOption = Annotated[
    float,
    typer.Option(
        min=0,
        envvar="OPSCTL_TRACKING_WAIT",
        help="Seconds to wait for an unreachable MLflow after the sweep has ended.",
    ),
]


DryRunOption = Annotated[
    bool, typer.Option("--dry-run", envvar="OPSCTL_DRY_RUN", help="Show the plan and exit.")
]


MaxConcurrentOption = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="OPSCTL_MAX_CONCURRENT", help="Maximum number of concurrent trials.", show_default=False
    ),
]


GpusOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_GPUS_PER_TRIAL",
        help="Share of a GPU for each trial, such as 0.25, or auto: as much as it needs.",
        show_default="1 if there is a GPU",
    ),
]


CpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        envvar="OPSCTL_CPUS_PER_TRIAL",
        help="CPUs for each trial.",
        show_default="1",
    ),
]


KeyArgument = Annotated[
    str,
    typer.Argument(
        help="The first characters of a data set's key or folder name; opsctl cache ls lists them.",
        show_default=False,
    ),
]


STORE = "opsctl-store"


SOURCE = "digits"


class ExportForm(StrEnum):
    """The format of an exported data set."""

    image_folder = "image_folder"
    parquet = "parquet"
    npz = "npz"
    hf = "hf"


class HowApplied(StrEnum):
    """How float noise is rounded to whole levels."""

    signed = "signed"
    released_em = "released_em"
    released_ops = "released_ops"


class Format(StrEnum):
    """The output format of a report."""

    table = "table"
    md = "md"
    latex = "latex"
    csv = "csv"
    trials_csv = "trials.csv"
    json = "json"
    svg = "svg"


FormatOption = Annotated[Format, typer.Option(envvar="OPSCTL_FORMAT", help="Output format.")]


CompareOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        envvar="OPSCTL_COMPARE",
        help="Two columns to compare, paired by seed: em,ops reports ops minus em. Repeatable.",
        show_default=False,
    ),
]


HtmlOption = Annotated[
    Path | None,
    typer.Option(
        envvar="OPSCTL_HTML",
        help="Write the whole report, with curves and pictures, to this HTML file instead of printing it.",
        show_default=False,
    ),
]


UiHostOption = Annotated[
    str,
    typer.Option(
        envvar="OPSCTL_UI_HOST", help="Address to listen on; loopback is reachable from this machine only."
    ),
]


UiPortOption = Annotated[
    int, typer.Option(min=1, max=65535, envvar="OPSCTL_UI_PORT", help="Port to listen on.")
]


AllowedHostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-hosts",
        envvar="OPSCTL_UI_ALLOWED_HOSTS",
        help="Host names that other machines use for this one, such as box.example.org; requests to any "
        "other name are rejected.",
        show_default="--host, and the names of loopback",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of `sweep`, `retry` and `submit` that control how a sweep is run."""

    settings: list[str] | None
    max_concurrent: int | None
    gpus_per_trial: str | None
    cpus_per_trial: float | None
    tracking_uri: str | None
    tracking_wait: float
    address: str | None = None
    dry_run: bool = False

    def changes(self) -> list[str]:
        """The changes to the sweep: those of `--set`, and the options that are fields of its `run`."""
        run = {
            "run.max_concurrent": self.max_concurrent,
            "run.gpus_per_trial": self.gpus_per_trial,
            "run.cpus_per_trial": self.cpus_per_trial,
        }
        options = [f"{path}={value}" for path, value in run.items() if value is not None]
        return [*(self.settings or []), *options]
