"""Poisons: one published method, one file; what only one of them needs stands beside it."""
