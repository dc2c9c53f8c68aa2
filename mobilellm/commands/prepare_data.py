r"""Train a tokenizer and write token shards; finished work is reused.

`mobilellm train` does the same if the data have not been prepared. Prepared data depend on the
model only through the size of its vocabulary, model.vocab_size.

  mobilellm prepare-data
  mobilellm prepare-data data=text data.train=books/ model.vocab_size=4096
  mobilellm prepare-data data=text data.train=train.txt data.validation=valid.txt \
      "data.document='^ = [^=].* = $'"
  mobilellm prepare-data data=tinystories model=mobilellm_125m data.tokenizer=llama.model
  mobilellm prepare-data data=conversations data.train=chats.jsonl model=smollm2_135m \
      data.tokenizer=smollm2/tokenizer.json show=3
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
    from mobilellm.data import PreparedConversations, prepare_data
    from mobilellm.data.conversation_display import show_trained
    from mobilellm.data.overview import overview
    from mobilellm.data.sources.conversations import ConversationConfig
    from mobilellm.hydra_app.configuration import instantiate
    from mobilellm.hydra_app.root_keys import checked_config

    cfg = checked_config("prepare_data", cfg)
    instantiate(cfg.model)  # only the vocabulary size is used, but the whole model must be valid
    data = instantiate(cfg.data)
    if cfg.show and not isinstance(data, ConversationConfig):
        raise ValueError(
            f"show={cfg.show} has no effect: it shows conversations (data=conversations), and of "
            "other data all tokens are trained; leave it out"
        )
    prepared = prepare_data(data)
    for line in overview(prepared):
        print(line)
    if cfg.show and isinstance(prepared, PreparedConversations):
        show_trained(prepared, cfg.show)
