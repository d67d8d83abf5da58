"""What methods craft: values that can be stored, and applied to images."""
