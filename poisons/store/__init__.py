"""The store of data sets: build, publish, verify and open them; the copy of one on a machine."""
