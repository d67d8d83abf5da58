"""What a trained network shows: one probe a file. Importing the package registers them all."""

from trainers.spec import import_members

import_members(__name__, __path__)
