"""How a report formats numbers and cells, the same in every output format."""

from __future__ import annotations

import math
from collections import Counter
from decimal import ROUND_HALF_UP, Context, Decimal

from orchestrator.planning.snapshot import lack
from orchestrator.report.table import Cell, Table, scale
from trainers.probe_view import PERCENT, Unit

MOST = 7  # decimals
DIGITS = 12  # significant digits that count; the rest is floating-point error
EXACT = Context(prec=400, rounding=ROUND_HALF_UP)  # enough digits for the largest float with all its decimals
SIGNS = {True: "=", False: "≠", None: "?"}  # within two std of the published figure, outside, not known


def text(table: Table, row: str, column: str) -> str:
    """`97.84 ± 0.31`; a share is shown in percent. A cell that lacks seeds is marked `(2 of 3)`, with the
    reason unless they just have not run: `(1 of 3, 1 failed, 1 stopped)`, `(1 of 3, 2 lack distance)`."""
    cell = table.cells.get((row, column))
    return "" if cell is None else shown(cell, table.seeds)


def shown(cell: Cell, seeds: int | None) -> str:
    """A cell as text. `seeds` is the number of trials that all cells have, which is then not repeated."""
    if cell.mean is None:
        return absence(cell)
    value = spread(cell.mean, cell.std, cell.unit)
    if cell.seeds == seeds:
        return value
    count = str(cell.seeds) if cell.seeds == cell.trials else f"{cell.seeds} of {cell.trials}"
    gone = [f"{n} {why}" for n, why in ((cell.failed, "failed"), (cell.stopped, "stopped")) if n]
    gone += [counted(n, why) for why, n in _reasons(cell).items() if why.startswith("lacks ")]
    return f"{value} ({', '.join([count, *gone])})"


def absence(cell: Cell) -> str:
    """Why a cell lacks trials: `3 failed`, `1 failed, 2 lack distance`; just `not run` or `lacks distance`
    if that is the reason for all of them."""
    why = _reasons(cell)
    for reason, number in why.items():
        if number == cell.trials and reason.startswith(("not run", "lacks ")):
            return reason
    return ", ".join(counted(number, reason) for reason, number in why.items())


def counted(number: int, reason: str) -> str:
    """`2 failed`; for the reason `lacks distance`: `1 lacks distance`, `2 lack distance`."""
    verb, _, probe = reason.partition(" ")
    return lack(number, probe) if verb == "lacks" else f"{number} {reason}"


def _reasons(cell: Cell) -> Counter[str]:
    return Counter(one.why if one.probe is None else f"lacks {one.probe}" for one in cell.absent)


def spread(mean: float, std: float | None, unit: Unit) -> str:
    """`97.84 ± 0.31`, or `97.84` where there is no deviation."""
    return number(mean, unit) + ("" if std is None else f" ± {number(std, unit, like=mean)}")


def number(value: float, unit: Unit, *, signed: bool = False, like: float | None = None) -> str:
    """A share in percent with two decimals; a number in any other unit with as many as `decimals` gives for
    it, or for `like` if that is given."""
    places = 2 if unit == PERCENT else decimals(value if like is None else like)
    return fixed(value * scale(unit), places, signed=signed)


def fixed(value: float, places: int, *, signed: bool = False) -> str:
    """`97.84`: the rounding rule of all reports. Halves are rounded away from zero, on the decimal number
    that `value` represents, so that a fraction, its percentage and their means agree wherever they appear."""
    if not math.isfinite(value):
        return str(value)
    rounded = EXACT.quantize(Decimal(f"{value:.{DIGITS}g}"), Decimal(1).scaleb(-places))
    return format(rounded or abs(rounded), f"{'+' if signed else ''}.{places}f")  # no -0.00


def decimals(value: float) -> int:
    """How many decimals show about three significant digits, or two decimals: 5 for 0.0022, 0 for 1234."""
    size = abs(value)
    if size >= 1000:
        return 0
    return 2 if size == 0 or size >= 0.1 else min(2 - math.floor(math.log10(size)), MOST)


def published(cell: Cell) -> str:
    """`96.08 -0.42 ≠`: the published figure, ours minus it, and whether they agree; empty if unpublished."""
    if cell.published is None:
        return ""
    figure = spread(cell.published.value, cell.published.std, cell.unit)
    if cell.difference is None:
        return figure
    return f"{figure} {number(cell.difference, cell.unit, signed=True)} {SIGNS[cell.within]}"


def caption(table: Table) -> str:
    """The caption of a table: which metrics, in which unit, over how many seeds."""
    metrics = list(dict.fromkeys(table.measured))
    units = table.units
    accuracies = [metric for metric in metrics if units.get(metric) == PERCENT]
    unit = " in %" if len(accuracies) == len(metrics) else ", accuracies in %" if accuracies else ""
    several = "(number of seeds)" if table.seeds is None else f"over {table.seeds} seeds"
    seeds = f"mean ± std {several}" if table.seeds != 1 else "one seed"
    each = "column and metric" if len(metrics) > 1 else "column"
    over = f"; mean and worst over {', '.join(table.summary)}; best of each {each} marked"
    return f"{', '.join(metrics)}{unit}, {seeds}{over if table.summary else ''}"


def source(table: Table, where: str = "in parentheses") -> str | None:
    """The legend for published figures, which are shown `where`, with their source; None if no cell has
    one."""
    if table.reference is None or not any(cell.published for cell in table.cells.values()):
        return None
    return (
        f"{where}: as published ({table.reference.source}), ours minus that, and = if they differ by "
        "at most 2 std (of our seeds, and of the published runs where these have one), ≠ if by more, "
        "? with fewer than 2 seeds"
    )
