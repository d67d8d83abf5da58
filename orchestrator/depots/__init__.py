"""What the machines of a sweep share: bytes by name, the ledger, stores, who drives what."""
