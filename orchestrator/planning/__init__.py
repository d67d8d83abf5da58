"""From a sweep file to a plan: specs, axes, points, the trials to run. Reads the ledger and computes; starts
nothing, and imports neither ray nor mlflow nor typer.
"""
