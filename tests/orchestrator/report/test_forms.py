"""Every output format of a report has the same numbers and is valid."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.report.latex import escaped
from poisons import Store
from tests.orchestrator.report.test_report import sheet, status

ACCS: list[float | None] = [0.1, 0.2, 0.6, 0.4, 0.4, 0.4, 0.9, None, 0.8, 1 / 3]
CLAIM = {"says": "100 % of 1 & 2 #_{x}", "lower": {"data.poison": "clean"}, "higher": {"data.poison": "ops"}}
WORDS: dict[str, Any] = {"compare": [["1", "2"]], "claims": [CLAIM]}


@pytest.fixture
def full(store: Store) -> report.Sheet:
    """A sheet with every kind of content."""
    return sheet(store, ACCS, **WORDS)


def test_markdown_is_a_table_followed_by_claims_and_warnings(full: report.Sheet) -> None:
    lines = report.sheet_markdown(full).splitlines()
    assert lines[2] == "| data.poison | 1 | 2 |"
    assert lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == "| clean | 30.00 ± 26.46 (33.00 -3.00 =) | 40.00 ± 0.00 (41.00 -1.00 ≠) |"
    assert lines[5] == (
        "| ops | 85.00 ± 7.07 (2 of 3, 1 failed) (90.00 ± 2.00 -5.00 =) | 33.33 (1 of 3) (10.00 +23.33 ?) |"
    )
    assert lines[7].startswith(
        "test/clean_acc in %, mean ± std over 3 seeds; in parentheses: as published (a paper)"
    )
    assert "| clean | +10.00 | -55.72 to +75.72 | 0.75 | 3 |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {4, 6}, "no cell breaks its row"


def test_markdown_shows_user_text_literally(store: Store) -> None:
    found = status(store, [], question="Is [a|b] <b>*this*</b> _so_?")
    text = report.sheet_markdown(report.make_sheet(found, Path("tiny.yaml")))
    assert r"Is \[a|b\] \<b>\*this\*\</b> \_so\_?" in text
    assert r"| data.poison |" in text


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("two\nlines", "two lines"),
        ("~~x~~ $y$", r"\~\~x\~\~ \$y\$"),
        ("a &lt; b", r"a \&lt; b"),
        ("a|b", r"a\|b"),
    ],
)
def test_a_label_keeps_its_place_in_a_markdown_table(store: Store, label: str, shown: str) -> None:
    found = status(store, [], grid={"data.poison": {label: "clean"}, "train.epochs": [1, 2], "seed": [0]})
    text = report.sheet_markdown(report.make_sheet(found, Path("tiny.yaml")))
    assert f"| {shown} | not run | not run |" in text.splitlines()


def test_a_label_cannot_end_a_latex_row_or_caption(store: Store) -> None:
    labels = {"* 2": "clean", "two\n\nlines": "ops"}
    found = status(
        store,
        [],
        grid={"data.poison": labels, "train.epochs": [1, 2], "seed": [0]},
        question="a\n\nb\x1b[0m?",
    )
    text = report.latex(report.make_sheet(found, Path("tiny.yaml")))
    assert r"\caption{a b\textbackslash{}x1b[0m? " in text
    assert "{* 2} & not run & not run " + r"\\" in text.splitlines(), r"else `\\` takes the star"
    assert "two lines & not run & not run " + r"\\" in text.splitlines()
    assert "\x1b" not in text


def test_comma_separated_values_keep_full_precision(full: report.Sheet) -> None:
    pandas = pytest.importorskip("pandas")
    text = report.comma_separated(full, full)
    frame = pandas.read_csv(io.StringIO(text), dtype={"row": str, "column": str})
    cells = list(full.table.cells.values())
    assert len(frame) == 2 * len(cells)
    for (_, line), cell in zip(frame.iterrows(), cells, strict=False):
        known = {name: None if pandas.isna(value) else value for name, value in line.items()}
        assert (known["row"], known["column"], known["sweep"]) == (cell.row, cell.column, "tiny")
        assert (known["mean"], known["std"], known["seeds"]) == (cell.mean, cell.std, cell.seeds)
        assert json.loads(known["values"]) == dict(cell.values)
        assert known["difference"] == cell.difference
        assert (known["low"], known["high"]) == (cell.interval or (None, None))
    assert frame["absent"].iloc[2:4].tolist() == ["1 failed", "2 not run"]


def test_json_contains_the_whole_sheet(full: report.Sheet) -> None:
    parsed = json.loads(report.as_json([full]))
    assert [cell["mean"] for cell in parsed["cells"]] == [cell.mean for cell in full.table.cells.values()]
    first, third = parsed["cells"][0], parsed["cells"][2]
    assert first["values"] == {"0": 0.1, "1": 0.2, "2": 0.6}
    assert first["labels"] == {"data.poison": "clean", "train.epochs": "1"}
    assert (first["scale"], first["within"]) == (100, True)
    assert first["interval"] == pytest.approx([0.1, 0.6])
    assert third["published"] == {"value": 0.9, "std": 0.02, "runs": 5}
    assert third["absent"][0]["error"] == "Boom: no [x]"
    counts = {"trials": 12, "done": 9, "failed": 1, "stopped": 0, "missing": 2}
    assert parsed["counts"] == {**counts, "lacking": {}}
    assert parsed["comparisons"][0]["rows"][0]["mean"] == pytest.approx(0.1)
    assert parsed["claims"][0]["points"][0]["at"] == {"train.epochs": "1"}
    assert parsed["reference"]["name"] == "paper/t"
    assert [one["name"] for one in json.loads(report.as_json([full, full]))] == ["tiny", "tiny"]


def test_latex_is_balanced_and_escaped(full: report.Sheet) -> None:
    text = report.latex(full)
    open_ = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert open_ == []
    assert r"100 \% of 1 \& 2 \#\_\{x\}" in text
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert not re.search(r"[%$#_]", bare)
    tables = re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end", bare, re.S)
    assert len(tables) == 2, "the table, and its comparison"
    for columns, body in tables:
        rows = [line for line in body.splitlines() if "&" in line]
        assert len(rows) > 2
        assert {line.count("&") for line in rows} == {len(columns) - 1}
    assert r"(41.00 \ensuremath{-}1.00 \ensuremath{\neq})" in text


@pytest.mark.parametrize(
    "word",
    [
        "a_b",
        "[x]",
        "5 % & 6 $",
        "~^\\{}",
        "ε ≤ 8/255, ℓ∞ ±",
        "CCT-7-3x1",
        "#1 <2> |",
        "--set a=b",
        "so?`",
        "''",
    ],
)
def test_escaping_can_be_undone(word: str) -> None:
    """A second, naive parser reverses the commands and the separated ligatures."""
    spelt = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        "--": "–",
        "?`": "¿",
        "''": "”",
    }
    spelt |= {"{}": ""}
    maths = {
        "<": "<",
        ">": ">",
        "|": "|",
        r"\pm": "±",
        r"\leq": "≤",
        r"\infty": "∞",
        r"\ell": "ℓ",
        r"\varepsilon": "ε",
    }
    spelt |= {f"\\ensuremath{{{tex}}}": char for tex, char in maths.items()}
    pattern = "|".join(re.escape(tex) for tex in spelt) + r"|\\[&%$#_{}]"
    assert re.sub(pattern, lambda m: spelt.get(m[0], m[0][-1]), escaped(word)) == word


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine to compile with")
def test_latex_compiles(full: report.Sheet, store: Store, tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[table]{xcolor}\\begin{document}\n"
    words = {"rows": "train.epochs", "columns": "data.poison", "summary": ["ops"]}
    grid = {"train.epochs": [1, 2], "data.poison": ["clean", "ops"], "seed": [0]}
    matrix = report.latex(
        report.make_sheet(
            status(Store(store.root.parent / "matrix"), [0.9, 0.2, 0.8, 0.4], grid=grid, report=words),
            Path("m.yaml"),
        )
    )
    assert "cellcolor" in matrix
    odd = "\n\n".join(
        escaped(word) for word in ("~^\\{}", "ε ≤ 8/255, ℓ∞ ± × – ≥ ≠ −1 ²", "[x] <y> |z| #$%&_")
    )
    (tmp_path / "page.tex").write_text(f"{head}{report.latex(full)}\n{matrix}\n{odd}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Undefined control sequence" not in run.stdout
