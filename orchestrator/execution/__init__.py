"""What runs next, and what a failure means: the progress of a sweep, retries, search, pruning, one trial. Only
execution/ray imports ray; what is here is tested without it.
"""
