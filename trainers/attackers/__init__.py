"""The attacks that an evaluation may run: one file each. Importing the package registers them all."""

from trainers.spec import import_members

import_members(__name__, __path__)
