r"""Train a tokenizer and write token shards; what is done already is reused.

Training does the same by itself where data is missing. Data depends on the model only by its
vocabulary, model.vocab_size.

  python scripts/prepare_data.py
  python scripts/prepare_data.py data=text data.train=books/ model.vocab_size=4096
  python scripts/prepare_data.py data=text data.train=train.txt data.validation=valid.txt \
      "data.document='^ = [^=].* = $'"
  python scripts/prepare_data.py data=tinystories model=mobilellm_125m data.tokenizer=llama.model
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.hydra_app.command import hydra_command

if TYPE_CHECKING:
    from omegaconf import DictConfig


def prepare(cfg: "DictConfig") -> None:
    """Prepare the data of a configuration and say what there is."""
    from mobilellm.data import prepare_data
    from mobilellm.data.overview import overview
    from mobilellm.hydra_app.configuration import instantiate
    from mobilellm.hydra_app.root_keys import checked_config

    cfg = checked_config("prepare_data", cfg)
    instantiate(cfg.model)  # of which only the vocabulary is used, but all of it has to be sound
    for line in overview(prepare_data(instantiate(cfg.data))):
        print(line)


if __name__ == "__main__":
    hydra_command(prepare, "prepare_data", description=__doc__ or "")
