"""A damaged or malicious document gives a page, or one message and exit code 2."""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.html import load_document, page_of
from orchestrator.report.html.__main__ import main
from orchestrator.report.html.numbers import number
from orchestrator.report.html.thumbnails import picture_of
from tests.conftest import ROOT
from trainers import InputError
from trainers.probe import Probe
from trainers.probes.first_layer import FirstLayer
from trainers.probes.loss_surface import LossSurface

RESULTS = sorted((ROOT / "results").glob("*.json"))
INSTEAD: list[Any] = [None, True, -1, 0, 2**70, 1e308, "", "x", "1e999999999", "javascript:x", [], [None], [[]], {}, {"a": None}]  # fmt: skip


def test_the_shipped_documents_are_valid() -> None:
    assert len(RESULTS) >= 2
    for file in RESULTS:
        assert load_document(file)["sweeps"]


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """A few trials of those sweeps of a shipped document that have probes with pictures."""
    document: dict[str, Any] = load_document(ROOT / "results" / "digits.json")
    kinds: set[str] = set()
    kept = []
    for sweep in document["sweeps"]:
        found = {
            one["picture"]["kind"]
            for trial in sweep["trials"]
            for one in trial.get("findings", {}).values()
            if "picture" in one
        }
        if not kept or found - kinds:
            kinds |= found
            sweep["trials"] = sweep["trials"][:3]
            kept.append(sweep)
    assert kinds == {"heat_map", "image_maps"}
    document["sweeps"], document["data"] = kept, document["data"][:2]
    return document


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values; only the first two items of a list."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
        for name, item in items:
            yield (*path, name)
            yield from places(item, (*path, name))


def changed(document: dict[str, Any], path: tuple[Any, ...], rng: random.Random) -> dict[str, Any]:
    """The document with the value at a path replaced, removed or repeated."""
    document = copy.deepcopy(document)
    node: Any = document
    for part in path[:-1]:
        node = node[part]
    how = rng.randrange(4)
    if how == 0:
        del node[path[-1]]
    elif how == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[path[-1]]))
    else:
        node[path[-1]] = rng.choice(INSTEAD)
    return document


@pytest.mark.slow
def test_a_damaged_document_gives_one_message_or_a_page(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, codes = random.Random(0), []
    known = list(places(small))
    file = tmp_path / "page.json"
    monkeypatch.setattr(sys, "argv", ["page", str(file)])
    for path in rng.sample(known, 200):
        file.write_text(json.dumps(changed(small, path, rng)))
        codes.append(main())
        err = capsys.readouterr().err
        assert (codes[-1], err.count("\n")) in ((0, 0), (2, 1)), (path, err)
    assert codes.count(2) > 50
    assert codes.count(0) > 10


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sweeps", 0, "report", "cells", 0, "mean"), None, "a cell has a mean if it has values"),
        (("sweeps", 0, "report", "cells", 0, "row"), "nowhere", "a row or column that its table does not have"),
        (("sweeps", 0, "report", "columns"), [], "rows and columns of a table must have unique names"),
        (("sweeps", 0, "report", "cells", 0, "mean"), 1e200, "mean: Input should be less than or equal to 10000"),
        (("sweeps", 0, "trials", 0, "curves"), {"epoch": [1.0, 2.0], "train/acc": [0.5]}, "curves must have an epoch"),
        (("sweeps", 0, "trials", 0, "seconds"), 1e300, "seconds"),
        (("sweeps", 0, "trials", 0, "state"), "<b>", "state"),
        (("sweeps", 0, "views", "early_stopping", "first_epoch"), 2, "first_epoch: Input should be 0 or 1"),
        (("data", 0, "picture"), "https://example.org/x.png", "picture: String should match"),
        (("data", 0, "picture"), "data:text/html;base64,PGI+", "picture: String should match"),
        (("made",), "x" * 10, "made"),
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_drawn_gives_an_error(
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: tuple[Any, ...],
    value: Any,
    message: str,
) -> None:
    document = copy.deepcopy(small)
    node: Any = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    file = tmp_path / "page.json"
    file.write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["page", str(file)])
    assert main() == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file} is not the document of a report page (")
    assert re.search(message, err), err


@pytest.mark.parametrize("label", ["1e999999999", "9" * 500, "1/0", "1e-999", "0x10", "1" * 21])
def test_a_label_that_is_not_a_usable_number_stays_a_label(label: str) -> None:
    assert number(label) is None


def test_a_shipped_document_is_rendered(small: dict[str, Any]) -> None:
    assert page_of(small).lstrip().startswith("<!doctype html>")


@pytest.mark.parametrize("fields", [{"loss": 1}, {"x": [0], "y": [0], "loss": [[1], [1, 2]], "acc": []}, {"images": 3}, {"images": [{"label": 0, "pixels": [[300]], "response": [[0]]}], "filters": []}, {"images": [{"label": 0, "pixels": [], "response": []}], "filters": []}])  # fmt: skip
@pytest.mark.parametrize("probe", [LossSurface(), FirstLayer()], ids=lambda probe: probe.kind)
def test_fields_of_a_probe_that_cannot_be_drawn_give_an_error(probe: Probe, fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the fields of probe mine cannot be drawn"):
        picture_of("mine", probe.view([])["picture"], fields)
