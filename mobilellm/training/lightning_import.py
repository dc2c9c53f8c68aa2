"""Imports Lightning without the packages that torchmetrics imports for metrics not used here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# If they are installed, torchmetrics imports `scipy.signal` for metrics of speech and classes of
# `transformers` for metrics of texts: a third of the time until a run starts.
UNUSED = ("scipy", "transformers")


def import_lightning() -> None:
    """Import Lightning in two thirds of the time; call it before any other import of Lightning.

    In this process, `torchmetrics` then lacks the metrics that need SciPy or transformers, such as
    `BERTScore`, unless `torchmetrics` was imported before.
    """
    if "torchmetrics" in sys.modules:
        return
    with _reported_missing(UNUSED):
        import lightning.pytorch  # noqa: F401


@contextmanager
def _reported_missing(packages: tuple[str, ...]) -> Iterator[None]:
    """Lightning's checks report within the block that these packages are not installed."""
    from lightning_utilities.core import imports

    package_available = imports.package_available
    is_met = imports.RequirementCache.__bool__

    def without_packages(name: str) -> bool:
        return name not in packages and package_available(name)

    def without_requirements(self: Any) -> bool:
        return not str(self.requirement).startswith(packages) and is_met(self)

    imports.package_available = without_packages
    imports.RequirementCache.__bool__ = without_requirements
    try:
        yield
    finally:
        imports.package_available = package_available
        imports.RequirementCache.__bool__ = is_met
