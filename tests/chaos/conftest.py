"""Fixtures and options of the tests in this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.chaos.play", "tests.chaos.witness")  # or they fail without a message

from tests.chaos.play import ROWS, total  # noqa: E402


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store where trials run undisturbed, once for all tests."""
    return tmp_path_factory.mktemp("alone")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("chaos")
        terminalreporter.write_line(total(ROWS))
