"""Malformed stores: every reader, and every command that reads a store, is given damaged and hostile files."""
