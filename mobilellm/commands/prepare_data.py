r"""Train a tokenizer and write token shards; finished work is reused.

`mobilellm train` does the same if the data have not been prepared. Prepared data depend on the
model only through the size of its vocabulary, model.vocab_size.

  mobilellm prepare-data
  mobilellm prepare-data data=text data.train=books/ model.vocab_size=4096
  mobilellm prepare-data data=text data.train=train.txt data.validation=valid.txt \
      "data.document='^ = [^=].* = $'"
  mobilellm prepare-data data=tinystories model=mobilellm_125m data.tokenizer=llama.model
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    hydra_command(prepare, "prepare_data", description=description(__doc__), arguments=arguments)


def prepare(cfg: "DictConfig") -> None:
    """Prepare the data of a configuration and print an overview."""
    from mobilellm.data import prepare_data
    from mobilellm.data.overview import overview
    from mobilellm.hydra_app.configuration import instantiate
    from mobilellm.hydra_app.root_keys import checked_config

    cfg = checked_config("prepare_data", cfg)
    instantiate(cfg.model)  # only the vocabulary size is used, but the whole model must be valid
    for line in overview(prepare_data(instantiate(cfg.data))):
        print(line)
