"""Where the initial weights of a training come from, one per file."""
