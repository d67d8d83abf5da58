from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A store that commands read; what the worst of them took is printed."""
    made = Bench(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.server.close()
    print(made.summary())
