"""Compression of a MobileLLM: recipes that calibrate, plan and apply.

A recipe is a class in the file of its name: `StructuredPruning` in `structured_pruning.py`.
"""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_class

if TYPE_CHECKING:
    from mobilellm.compression.factorization import Factorization as Factorization
    from mobilellm.compression.pruning import Pruning as Pruning
    from mobilellm.compression.structured_pruning import StructuredPruning as StructuredPruning


def __getattr__(name: str) -> Any:
    """A recipe by the name of its class, imported when it is first used."""
    return import_public_class(__name__, name)
