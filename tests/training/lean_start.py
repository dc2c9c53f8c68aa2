"""Imported before Lightning, it makes a process of a test start as the ranks of a run do."""

from mobilellm.training.lightning_import import import_lightning

import_lightning()
