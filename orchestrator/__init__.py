"""Layer 3: plans and runs sweeps of trials over poisoned data sets."""
