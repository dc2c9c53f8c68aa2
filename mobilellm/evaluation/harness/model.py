"""A language model of this project as the harness's `LM`."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM

from mobilellm.evaluation.language_model import (
    Advance,
    LanguageModel,
    encode_pairs,
    rolling_pairs,
)
from mobilellm.evaluation.until import generate_until


class HarnessModel(LM):
    """Answers the three kinds of requests of the harness with a model in memory."""

    def __init__(self, model: LanguageModel, advance: Advance | None = None) -> None:
        """Keep the model.

        Args:
            model: with its tokenizer.
            advance: called with the number of requests that were answered, after each batch.
        """
        super().__init__()
        self.model = model
        self.advance = advance
        self.truncated = 0
        """Number of requests whose context was cut on the left, so far."""

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding gives it."""
        encoded = encode_pairs(self.model, [request.args[:2] for request in requests])
        self.truncated += encoded.truncated
        scores = self.model.score(encoded.pairs, self.advance)
        return [(score.log_likelihood, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of each text."""
        windows = [rolling_pairs(self.model, request.args[0]) for request in requests]
        scores = iter(self.model.score([pair for text in windows for pair in text], self.advance))
        return [sum(next(scores).log_likelihood for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy continuation of each context up to a stop text."""
        answers, truncated = generate_until(
            self.model, [request.args[:2] for request in requests], self.advance
        )
        self.truncated += truncated
        return answers

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation as the model was trained on it."""
        return self.model.tokenizer.apply_chat_template(
            chat_history, add_generation_prompt=add_generation_prompt
        )

    @property
    def tokenizer_name(self) -> str:
        """A name for caches of the harness, which are not used."""
        return self.model.name
