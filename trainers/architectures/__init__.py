"""The architectures: one file each, which registers itself by the kind in its class line. CONTRIBUTING.md
says how to add one."""
