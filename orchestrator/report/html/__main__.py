"""Renders a document as a page: `python -m orchestrator.report.html results/digits.json -o digits.html`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.report.html import load_document, page_of
from poisons.durable import write_output
from trainers import InputError
from trainers.redaction import shown


def main() -> int:
    """Write the page. Exit code 0; 2 with a message if it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.report.html", description=__doc__)
    parser.add_argument("document", type=Path, help="a file that opsctl report --html OUT.json wrote")
    parser.add_argument(
        "-o", "--out", type=Path, help="the page to write [default: the document's name with .html]"
    )
    options = parser.parse_args()
    out = options.out or options.document.with_suffix(".html")
    try:
        write_output(out, page_of(load_document(options.document)).encode())
    except (InputError, OSError) as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
