"""A saved model and its tokenizer, ready to generate text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.accounting import count_parameters
from mobilellm.data.tokenizers import Message, Tokenizer, load_tokenizer
from mobilellm.formats.model_folder import describe_missing_tokenizer, open_model
from mobilellm.inference.text_generation import answer, continue_text
from mobilellm.models import MobileLLM, ModelConfig


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A model with its tokenizer, as `load` returns it."""

    folder: Path
    """The folder that was given to `load`."""
    model: MobileLLM
    """In evaluation mode, on the CPU, with float32 weights."""
    tokenizer: Tokenizer | None
    """None if the folder has no tokenizer."""

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.model.config

    def generate(
        self,
        text: str = "",
        max_new_tokens: int = 100,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Return a text and its continuation, up to the end-of-text token.

        Args:
            text: the prompt; if it is empty, the model starts a new text.
            max_new_tokens: the most tokens to add.
            temperature: 0 is greedy decoding; otherwise logits are divided by it before sampling.
            top_k: sample only from the k most likely tokens.
            top_p: sample only from the smallest set of most likely tokens whose probabilities sum
                to at least this value.
            seed: of the sampling; None: torch's global random generator is used.

        Raises:
            FileNotFoundError: the model has no tokenizer.
            ValueError: the tokens exceed the context length, or a setting is out of range.
        """
        return continue_text(
            self.model, self.required_tokenizer(), text, max_new_tokens,
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip

    def chat(
        self,
        messages: Sequence[Message],
        max_new_tokens: int = 100,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Return the model's answer to a conversation, which its chat template writes as text.

        Args:
            messages: each with a `role` (`system`, `user` or `assistant`) and a `content`.
            max_new_tokens: the most tokens of the answer.
            temperature: as for `generate`.
            top_k: as for `generate`.
            top_p: as for `generate`.
            seed: as for `generate`.

        Raises:
            FileNotFoundError: the model has no tokenizer.
            ValueError: the tokenizer has no chat template, the template refuses the messages, the
                tokens exceed the context length, or a setting is out of range.
        """
        return answer(
            self.model, self.required_tokenizer(), messages, max_new_tokens,
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip

    def required_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            FileNotFoundError: the model has none.
        """
        if self.tokenizer is None:
            raise FileNotFoundError(
                f"{describe_missing_tokenizer(self.folder)}; give the tokenizer that the model was "
                "trained with: load(folder, tokenizer=PATH), or --tokenizer PATH"
            )
        return self.tokenizer

    def __repr__(self) -> str:
        """Return folder and size in one line."""
        config, stored = self.config, count_parameters(self.config).stored
        return (
            f"LoadedModel({str(self.folder)!r}: {config.num_layers} layers of width "
            f"{config.hidden_size}, {stored:,} parameters)"
        )


def load(folder: str | Path, *, tokenizer: str | Path | None = None) -> LoadedModel:
    """Load a saved model with its tokenizer.

    Args:
        folder: the folder of a model that this project saved, of a run (its `model/` is loaded), or
            of a Llama-type Hugging Face checkpoint.
        tokenizer: path of a tokenizer.model or tokenizer.json; default: the one in the folder, if
            there is one.

    Returns:
        An object with `.model`, `.tokenizer`, `.generate(text)` and `.chat(messages)`.

    Raises:
        FileNotFoundError: the folder, a file of the model, or `tokenizer` does not exist.
        ValueError: the architecture is not supported, files contradict each other, or the tokenizer
            has more tokens than the model's embedding.
    """
    model, own = open_model(folder)
    path = own if tokenizer is None else Path(tokenizer)
    size = model.config.vocab_size
    found = None if path is None else load_tokenizer(path, size, name="tokenizer ")
    return LoadedModel(Path(folder), model.eval(), found)
