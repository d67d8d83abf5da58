"""Running sweeps on a Ray cluster: the token, autoscaling, the checks before a sweep is submitted, the
supervisor that runs a submitted one on the head, and what a driver needs of its machine. Code that needs Ray
is in execution/ray; how a cluster is started is in cluster.yaml and cluster/.
"""
