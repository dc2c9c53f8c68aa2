"""What a model costs, without building it: parameters, FLOPs, memory, and a time forecast.

  python scripts/explain.py model=mobilellm_125m
  python scripts/explain.py model=mobilellm_350m sequence_length=1024 max_tokens=250e9 format=json
  python scripts/explain.py -m model=by_budget model.budget=125e6 model.num_blocks=4,8,12,20,30
  python scripts/explain.py model=mobilellm_1b scaling.num_gpus=[8,32,256] micro_batch_size=4
  python scripts/explain.py init_from=outputs/demo/RUN/model      a saved model, compressed or not

With -m the models stand in one table, a row each (format=json: a line each). Nothing is written.
"""

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import exit_code_of
from mobilellm.hydra_app.command import hydra_command


def main() -> None:
    """Explain what the command line describes; a sweep's models together, at the end."""
    from mobilellm.pipeline.explain import Explanations

    explanations = Explanations()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            hydra_command(explanations.add, "explain", description=str(__doc__), sweep_dir=scratch)
        finally:
            exit_code_of(explanations.show)


if __name__ == "__main__":
    main()
