"""The schedules: one file each, imported when the family's kinds are first needed."""
