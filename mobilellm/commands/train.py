"""Train one model, or with -m a sweep of models.

Data that have not been prepared are prepared first. A run is saved in
<output_dir>/<experiment_name>/<run>/, and the name of the folder follows from the settings. If the
command is given again, an unfinished run continues (with resume=true, the default under -m), and a
finished run is left as it is.

  mobilellm train model=tiny_deep data=stdlib max_tokens=2e6
  mobilellm train data=text data.train=book.txt optimizer=adamw seed=1
  mobilellm train extend_from=outputs/default/RUN max_tokens=4e6
  mobilellm train -m experiment=depth_vs_width
  mobilellm train -m model=by_budget model.budget=125e6 model.num_blocks=4,12,30 seed=0,1,2
  mobilellm train -m experiment=ladder --dry-run
"""

from collections.abc import Sequence
from typing import NoReturn

from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command
from mobilellm.pipeline import train_run


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    hydra_command(
        train_run,
        "train",
        description=description(__doc__),
        check="mobilellm.pipeline.check_run",
        check_together="mobilellm.pipeline.check_data_folders",
        forecast="mobilellm.pipeline.forecast_sweep",
        sweep_dir="${output_dir}/${experiment_name}",
        arguments=arguments,
    )
