"""Running sweeps on a cluster: the token, autoscaling, submitting a sweep, and the supervisor of a submitted
one. Code that needs a Ray client is in execution/ray.
"""
