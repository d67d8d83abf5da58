"""The defenses: one file each, imported when their family is first
asked for its kinds."""
