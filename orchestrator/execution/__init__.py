"""What runs next, and what a failure means: the progress of a sweep, retries, search, pruning, one trial. Ray
is imported by execution/ray alone; the rest is tested without it.
"""
