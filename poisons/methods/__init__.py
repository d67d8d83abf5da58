"""Poisons: one file per published method, with the modules that only one of them needs."""
