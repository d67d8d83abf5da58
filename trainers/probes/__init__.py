"""Probes, measurements on a trained network: one file each, imported when the family's kinds are first
needed."""
