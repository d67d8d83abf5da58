"""Reports of sweeps, from the ledger on disk: mean ± std over seeds, beside published figures.

Imports only light modules, so that a report starts instantly.
"""

from orchestrator.report.csv_table import comma_separated
from orchestrator.report.csv_trials import trials_csv
from orchestrator.report.latex import latex
from orchestrator.report.markdown import markdown, sheet_markdown
from orchestrator.report.sheet import Sheet, as_json, make_sheet
from orchestrator.report.table import Cell, Table, summarised, tabulate
from orchestrator.report.warning import SheetWarning, warning_lines
from orchestrator.report.wording import caption, published, shown, source, text

__all__ = [
    "Cell",
    "Sheet",
    "SheetWarning",
    "Table",
    "as_json",
    "caption",
    "comma_separated",
    "latex",
    "make_sheet",
    "markdown",
    "published",
    "sheet_markdown",
    "shown",
    "source",
    "summarised",
    "tabulate",
    "text",
    "trials_csv",
    "warning_lines",
]
