"""Importing Lightning without packages that only metrics use, in a process that has not yet."""

import json
import subprocess
import sys

CODE = """
import json, sys
from mobilellm.training.lightning_import import import_lightning
import_lightning()
loaded = [name for name in ("lightning.pytorch", "scipy", "transformers") if name in sys.modules]
from lightning_utilities.core.imports import RequirementCache, package_available
found = [package_available("scipy"), bool(RequirementCache("scipy>=1"))]
import mobilellm.pipeline.train
from torchmetrics import MeanMetric
mean = MeanMetric()
mean.update(2.0)
print(json.dumps([loaded, found, mean.compute().item()]))
"""


def test_lightning_is_there_and_packages_of_metrics_are_not_loaded():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=120,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Afterwards, the checks of Lightning find the packages again.
    assert json.loads(done.stdout) == [["lightning.pytorch"], [True, True], 2.0]
