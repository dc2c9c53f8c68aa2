"""Check whether activations keep their sizes over width and depth as training begins.

Trains models of several widths, and models of several depths, for a few steps, and prints how
large their activations are. If a parametrisation fits, the sizes are equal (within tolerance=0.2),
and a learning rate that is tuned for a small model suits large ones; under
parametrization=standard, which is measured too, they drift. The plot is <out>/coordinate_check.png.
The default takes about five minutes on one CPU core.

  mobilellm coordinate-check
  mobilellm coordinate-check optimizer=muon optimizer.learning_rate=1e-2
  mobilellm coordinate-check parametrization=mup depths=[4] widths=[64,256,1024]
  mobilellm coordinate-check parametrization.base_depth=8 model.block_repeats=2 text=book.txt
"""

from collections.abc import Sequence
from typing import NoReturn

from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command
from mobilellm.pipeline import check_coordinates


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    hydra_command(
        check_coordinates, "coordinate_check", description=description(__doc__), arguments=arguments
    )
