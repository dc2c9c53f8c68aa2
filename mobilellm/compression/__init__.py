"""Compression of a model by recipes, which make a plan and apply it.

Each recipe is a class in a file of the same name, e.g. `StructuredPruning` in
`structured_pruning.py`.
"""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_class

if TYPE_CHECKING:
    from mobilellm.compression.awq import AWQ as AWQ
    from mobilellm.compression.factorization import Factorization as Factorization
    from mobilellm.compression.gptq import GPTQ as GPTQ
    from mobilellm.compression.pruning import Pruning as Pruning
    from mobilellm.compression.quantization_aware_training import (
        QuantizationAwareTraining as QuantizationAwareTraining,
    )
    from mobilellm.compression.round_to_nearest import RoundToNearest as RoundToNearest
    from mobilellm.compression.structured_pruning import StructuredPruning as StructuredPruning


def __getattr__(name: str) -> Any:
    """Import a recipe when it is first used, given the name of its class."""
    return import_public_class(__name__, name)
