"""The attacks that an evaluation may run: one file each, imported when the family's kinds are first
needed."""
