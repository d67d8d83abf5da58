"""Results and findings as earlier versions wrote them: with their history, or their curves and fields, in them."""

from __future__ import annotations

import json

from orchestrator.storage.kinds import FINDINGS, RESULTS
from orchestrator.storage.storage import Storage


def merge(storage: Storage, name: str) -> None:
    """Rewrite a file of the ledger and the one with its long fields as one."""
    head = json.loads(storage.read(name) or b"")
    kind = RESULTS if name.endswith("result.json") else FINDINGS
    file = kind.long_file(name, head)
    assert file is not None
    long = json.loads(storage.read(file) or b"")
    storage.write(name, json.dumps(head | long, indent=1).encode())
    storage.remove(file)
