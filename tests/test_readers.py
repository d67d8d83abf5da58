"""Every format that opsctl reads back has one reader."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARSERS = {
    "JSON": (
        {"json.loads", "json.load", "from_json", "validate_json", "model_validate_json"},
        {"trainers/stored.py"},
    ),
    "Arrow files": (
        {
            "pa.ipc.open_file",
            "pa.ipc.open_stream",
            "pa.ipc.MessageReader.open_stream",
            "pa.memory_map",
            "feather.read_table",
        },
        {"poisons/arrow.py"},
    ),
    "files of tensors": (
        {"torch.load"},
        {
            "trainers/tensor_files.py",
            "poisons/exchange/array_files.py",
        },  # the second: files of torch before 1.6
    ),
    "arrays": ({"np.load", "numpy.load"}, set()),
    "pickles": (
        {"pickle.loads", "pickle.load"},
        {"trainers/layers.py"},  # what the process itself has just written, through a pipe
    ),
}


def called(file: Path) -> set[str]:
    """The dotted names of the functions that a file calls, such as `json.loads`."""
    calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(call.func) for call in calls}


@pytest.mark.parametrize("what", PARSERS)
def test_only_one_file_parses_each_format(what: str) -> None:
    functions, allowed = PARSERS[what]
    found = defaultdict(set)
    files = [
        file for layer in ("trainers", "poisons", "orchestrator") for file in (ROOT / layer).rglob("*.py")
    ]
    assert len(files) > 200
    for file in files:
        for name in called(file) & functions:
            found[str(file.relative_to(ROOT))].add(name)
    assert set(found) == allowed, dict(found)
