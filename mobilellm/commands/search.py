r"""Search for the best shapes within limits: parameters, bytes, FLOPs, memory or latency.

Proposes shapes of a space, trains each as an ordinary run (in <output_dir>/<experiment_name>/, as
mobilellm train does), ends bad ones early, and writes a page with the results. Limits are checked
before a trial exists. If the command is given again, it continues: finished trials are kept, killed
ones are resumed. It may run several times at once on the same study.

  mobilellm search search_space=depth_and_width search.constraints.max_bytes=2e6 --dry-run
  mobilellm search search.constraints.max_body=1e6 search.n_trials=40 search.pruning.rule=halving
  mobilellm search search_space=largest_width search.constraints.max_flops=4e6 max_tokens=2e6
  mobilellm search 'search.objectives=[val_loss,latency_ms]' search.sampler=nsgaii \
    search.constraints.latency_profile=device.json
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command
from mobilellm.pipeline import search_shapes

DRY_RUN = "--dry-run"
FLAGS = f"  {DRY_RUN:<20} count the feasible points of the space, and train nothing\n"
NO_SWEEP = (
    "search trains its trials by itself; leave out -m, and give several values in the space, such "
    "as search_space.model.num_blocks=[2,4,8]"
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    line = ["search.dry_run=true" if word == DRY_RUN else word for word in given]
    hydra_command(
        search_shapes,
        "search",
        description=description(__doc__),
        flags=FLAGS,
        sweep_refusal=NO_SWEEP,
        arguments=line,
    )
