"""The progress of sweeps, their drivers, and stopping them. Uses storage only, so that it starts instantly
and works from any machine with access to the store.
"""
