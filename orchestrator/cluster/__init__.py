"""Machines that a sweep runs on, and how one gets on them: the token, autoscaling, submitting a sweep, the
supervisor of a submitted one. What needs a Ray client is in execution/ray.
"""
