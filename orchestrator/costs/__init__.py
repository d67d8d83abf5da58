"""What a sweep costs, in which order it is run, and how much of a machine each trial gets."""
