"""Data sets for people and other programs: import, export, the card, the picture."""
