"""What runs next, and what a failure means: the progress of a sweep, retries, search, pruning, one trial. Only
execution/ray imports ray; the rest is tested without it.
"""
