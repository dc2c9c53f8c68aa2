"""Train one model, or with -m a sweep of models.

Prepares missing data first. A run goes to <output_dir>/<experiment_name>/<run>/, named by what is
trained; started again, an unfinished one continues (resume=true, the default under -m) and a
finished one is left alone.

  python scripts/train.py model=tiny_deep data=stdlib max_tokens=2e6
  python scripts/train.py data=text data.train=book.txt optimizer=muon seed=1
  python scripts/train.py extend_from=outputs/default/RUN max_tokens=4e6
  python scripts/train.py -m experiment=depth_vs_width
  python scripts/train.py -m model=by_budget model.budget=125e6 model.num_blocks=4,12,30 seed=0,1,2
"""

import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.hydra_app.command import hydra_command
from mobilellm.pipeline import train

if __name__ == "__main__":
    hydra_command(
        train,
        "train",
        description=__doc__ or "",
        check="mobilellm.pipeline.check_run",
        check_together="mobilellm.pipeline.check_data_folders",
        sweep_dir="${output_dir}/${experiment_name}",
    )
