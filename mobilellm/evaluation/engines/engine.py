"""The interface of programs that run a model: read a prompt, and decode token by token."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Step:
    """What a model predicts after the tokens that it has read."""

    token: int
    """The most likely next token."""
    log_probabilities: Mapping[int, float] | None
    """Natural logarithms of the probabilities of the most likely next tokens, the largest first;
    None if the program does not tell them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A prompt and its greedy continuation."""

    tokens: tuple[int, ...]
    """The continuation."""
    prefill_seconds: float
    """Time to read the prompt and to predict the first token."""
    decode_seconds: float
    """Time of the steps after the first token, one for each further token."""
    prefill_cpu_seconds: float
    """Processor time of this process while it read the prompt, all threads together."""
    decode_cpu_seconds: float
    """The same for the steps after the first token."""


class Engine(ABC):
    """A model that is loaded in a program; usable in a `with` statement, which closes it.

    An engine reads one sequence at a time. Its subclasses load a model when they are created.
    """

    @abstractmethod
    def prefill(self, tokens: Sequence[int]) -> Step:
        """Begin a new sequence with a prompt of at least one token, and predict the next token."""

    @abstractmethod
    def decode(self, token: int) -> Step:
        """Append one token to the sequence, and predict the next one from its KV cache."""

    def prepare(self) -> None:
        """Do what the first run would do otherwise; by default nothing."""
        return

    @abstractmethod
    def close(self) -> None:
        """Free the model; the engine cannot be used any more."""

    def run(self, tokens: Sequence[int], num_tokens: int, *, never: Collection[int] = ()) -> Run:
        """Continue a prompt by its most likely tokens, and measure the time.

        Args:
            tokens: the prompt.
            num_tokens: number of tokens to add, at least 1. No token ends the continuation before.
            never: tokens that are not added, such as the end-of-text token, which llama.cpp never
                adds here.

        Raises:
            ValueError: the most likely tokens that the engine tells are all in `never`.
        """
        start, start_cpu = time.perf_counter(), time.process_time()
        step = self.prefill(tokens)
        read, read_cpu = time.perf_counter(), time.process_time()
        added = [_best(step, never)]
        while len(added) < num_tokens:
            added.append(_best(self.decode(added[-1]), never))
        return Run(
            tokens=tuple(added), prefill_seconds=read - start,
            decode_seconds=time.perf_counter() - read, prefill_cpu_seconds=read_cpu - start_cpu,
            decode_cpu_seconds=time.process_time() - read_cpu,
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the engine."""
        self.close()


def _best(step: Step, never: Collection[int]) -> int:
    if step.token not in never:
        return step.token
    found = next((token for token in step.log_probabilities or () if token not in never), None)
    if found is None:
        raise ValueError(
            f"the most likely tokens are all among the {len(never)} that are never added; create "
            f"the engine with top={len(never) + 1} or more"
        )
    return found
