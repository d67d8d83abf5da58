"""`python -m orchestrator` is `opsctl`."""

from orchestrator.cli import main

main()
