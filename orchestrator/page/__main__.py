"""A page from its document: `python -m orchestrator.page results/digits.json -o digits.html`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.page import load_document, page_of
from orchestrator.page.document import write_whole
from trainers import InputError


def main() -> int:
    """Exit code 0 if the page is written; 2, and a message, if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.page", description=__doc__)
    parser.add_argument("document", type=Path, help="a file that opsctl report --html OUT.json wrote")
    parser.add_argument("-o", "--out", type=Path, help="the page [default: its name with .html]")
    options = parser.parse_args()
    out = options.out or options.document.with_suffix(".html")
    try:
        write_whole(out, _page(options.document).encode())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _page(file: Path) -> str:
    """The page of a document. InputError if it is none, or lacks what a page shows."""
    document = load_document(file)
    try:
        return page_of(document)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not the document of a page ({type(error).__name__}: {error})") from error


if __name__ == "__main__":
    sys.exit(main())
