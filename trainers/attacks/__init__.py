"""The attacks that an evaluation may run: one file each, imported when their family is first
asked for its kinds."""
