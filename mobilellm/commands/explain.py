"""Show what a model costs without building it: parameters, FLOPs, memory and training time.

  mobilellm explain model=mobilellm_125m
  mobilellm explain model=mobilellm_350m sequence_length=1024 max_tokens=250e9 format=json
  mobilellm explain -m model=by_budget model.budget=125e6 model.num_blocks=4,8,12,20,30
  mobilellm explain model=mobilellm_1b scaling.num_gpus=[8,32,256] micro_batch_size=4
  mobilellm explain init_from=outputs/demo/RUN/model      a saved model, compressed or not

With -m all models are shown in one table, one row per model (format=json: one line per model).
No file is written.
"""

import tempfile
from collections.abc import Sequence

from mobilellm.cli.command import exit_code_of
from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit; a sweep's models are shown together, at the end."""
    from mobilellm.pipeline.explain import Explanations

    explanations = Explanations()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            hydra_command(
                explanations.add,
                "explain",
                description=description(__doc__),
                sweep_dir=scratch,
                arguments=arguments,
            )
        finally:
            exit_code_of(explanations.show)
