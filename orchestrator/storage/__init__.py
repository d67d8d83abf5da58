"""What the machines of a sweep share: bytes by name in a folder or at a URL, the ledger of results, leases on
trials, heartbeats of drivers, garbage collection. Trials are identified by their keys; sweeps are unknown."""
