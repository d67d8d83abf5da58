"""What a trained network shows: one probe a file, imported when their family is first
asked for its kinds."""
