"""The command line, `opsctl`. The only package that imports typer. Each command imports the heavy modules
that it needs.
"""

from orchestrator.cli import data, services, sweeps
from orchestrator.cli.entry import main

__all__ = ["data", "main", "services", "sweeps"]
