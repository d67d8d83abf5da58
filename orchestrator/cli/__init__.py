"""The command line, `opsctl`. The only package that imports typer; what is heavy is imported by the command
that needs it.
"""

from orchestrator.cli import data, services, sweeps
from orchestrator.cli.entry import main

__all__ = ["data", "main", "services", "sweeps"]
