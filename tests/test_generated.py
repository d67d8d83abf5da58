"""Generated pages and the schema are up to date; the schema accepts every shipped sweep and no misspelt one."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docs.generate import GENERATED
from tests.conftest import ROOT
from tests.pages import blocks
from tests.test_docs import SWEEPS as PARTS
from tests.test_docs import as_sweep
from trainers.spec import Plugin
from trainers.yaml_text import plain_numbers, read_yaml

FILES = sorted((ROOT / "sweeps").rglob("*.yaml"))
SCHEMA = json.loads((ROOT / "sweeps" / "schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == GENERATED[name](), (
        f"{name} is out of date; write it with make generated"
    )


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    families = {family.family: family.registry for family in Plugin.families.values()}
    kinds = {f"{family}.{kind}" for family, members in families.items() for kind in members}
    assert kinds <= SCHEMA["$defs"].keys()


def test_the_schema_describes_every_field_and_every_axis() -> None:
    specs = {name: schema["properties"] for name, schema in SCHEMA["$defs"].items() if "properties" in schema}
    assert len(specs) > 60
    fields = {f"{name}.{field}": schema for name, own in specs.items() for field, schema in own.items()}
    axes = SCHEMA["properties"]["grid"]["properties"]
    shown = fields | axes | SCHEMA["properties"]
    undescribed = [name for name, schema in shown.items() if not schema.get("description")]
    assert [name for name in undescribed if not name.endswith("kind")] == []
    assert fields["poison.em.stop_error"]["description"].startswith("Error of the generator on noisy images")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT / "sweeps").as_posix())
def test_shipped_sweeps_match_the_schema_and_misspelt_ones_do_not(file: Path) -> None:
    sweep = plain_numbers(read_yaml(file, "a sweep that ships"))
    assert [error.message for error in VALIDATOR.iter_errors(sweep)] == []
    misspelt = list(with_a_misspelling(sweep))
    assert len(misspelt) > 5
    assert [name for name, changed in misspelt if VALIDATOR.is_valid(changed)] == []


def with_a_misspelling(sweep: Any) -> Iterator[tuple[str, Any]]:
    """The sweep with one field misspelt, for every field of every mapping except those of labels."""
    for path in list(fields(sweep)):
        changed = copy.deepcopy(sweep)
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        holder[f"{path[-1]}x"] = holder.pop(path[-1])
        yield ".".join(map(str, path)), changed


def fields(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    labels = path == ("report", "metrics") or path[-1:] in (("lower",), ("higher",), ("where",))
    for name, item in items:
        axis = len(path) == 2 and path[0] == "grid"
        here = (*path, name)
        if (
            isinstance(value, dict)
            and not labels
            and not axis
            and path[-1:] != ("sets",)
            and path[-1:] != ("options",)
        ):
            yield here
        yield from fields(item, here)


@pytest.mark.parametrize("block", PARTS, ids=lambda block: f"{block.page.stem}-{block.text[:20]!r}")
def test_examples_on_the_pages_match_the_schema(block: Any) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(as_sweep(block))] == []


def test_the_sweep_of_the_tutorial_is_valid() -> None:
    first = next(one for one in blocks(ROOT / "docs" / "first_sweep.md") if one.language == "yaml")
    assert [error.message for error in VALIDATOR.iter_errors(as_sweep(first))] == []


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("run", {"retries": -1}),
        ("run", {"gpus_per_trial": "all"}),
        ("run", {"search": "bayes"}),
        ("grid", {"train.epoch": [1]}),
        ("grid", {"train.epochs": []}),
        ("grid", {"train.epochs": 3}),
        ("grid", {"train.architecture.widht": [1]}),
        ("base", {"train": {"defense": "pgd"}}),
        ("base", {"data": {"poison": {"kind": "em", "eps": 0.03}}}),
        ("base", {"data": {"poison": [{"kind": "em", "epsilon": "8/255"}]}}),
        ("base", {"train": {"optimizer": {"learning_rate": 0.1}}}),
        ("probes", ["distanse"]),
        ("skip", [{"train.epoch": 1}]),
    ],
)
def test_the_schema_rejects_mistakes(part: str, value: Any) -> None:
    sweep = {"name": "a", "question": "b?", "grid": {"seed": [0]}}
    assert VALIDATOR.is_valid(sweep)
    assert not VALIDATOR.is_valid(sweep | {part: value})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("base", {"train": {"optimizer": {"lr": 0.1}, "augmentations": {0: {"pad": 2}}}}),
        ("base", {"data": {"poison": "ops"}, "train": {"architecture": {"kind": "timm"}}}),
        (
            "grid",
            {
                "train.optimizer.lr": {"low": 0.1},
                "data.poison.0.eps": ["8/255"],
                "train.optimizer.kind": ["sgd"],
            },
        ),
        ("grid", {"train.architecture.options.patch_size": [4], "train.architecture.name": ["vit"]}),
        ("grid", {"data.poison": ["clean", ["em", "ops"]], "train": {"a": {}, "b": {"epochs": 3}}}),
        ("probes", ["distance", {"kind": "shuffle_test", "name": "s", "sets": {"em": {"poison": "em"}}}]),
        ("report", {"rows": "seed", "claims": [{"says": "a", "lower": {"data.poison": 2}, "higher": 0.5}]}),
    ],
)
def test_short_forms_match_the_schema(part: str, value: Any) -> None:
    sweep = json.loads(json.dumps({"name": "a", "question": "b?", "grid": {"seed": [0]}, part: value}))
    assert [error.message for error in VALIDATOR.iter_errors(sweep)] == []


@pytest.mark.slow
def test_the_documentation_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("myst_parser")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        "docs",
        str(tmp_path),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    names = re.findall(r'id="([\w.]+)"', (tmp_path / "api.html").read_text())
    assert {"trainers.fit", "poisons.Store", "orchestrator.report.Sheet"} <= set(names)
