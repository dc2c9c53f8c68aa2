"""Generates the tokens of one text after another; what both begin with is computed once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.layers.quantized import dense_copies
from mobilellm.models import MobileLLM
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import PackedDecoder, can_pack
from mobilellm.models.generation import choose_tokens
from mobilellm.models.token_constraints import TokenConstraint


class TokenStream:
    """A model with the keys and values of the last text.

    The next text is computed from its first token that differs from the last one. In a
    conversation, these are the tokens of the new message.
    """

    def __init__(self, model: MobileLLM) -> None:
        """Begin with an empty cache.

        Args:
            model: its weights must not change. On CPUs that support it, they are copied and packed
                for fast decoding when the first text is generated.
        """
        self.model = model
        self.tokens: list[int] = []
        """The tokens in the cache."""
        self.num_computed = 0
        """How many tokens of the last prompt were computed; the others were in the cache."""
        self._cache = KVCache(model.config)
        self._decoder: PackedDecoder | None = None

    def reset(self) -> None:
        """Forget everything, and release the memory of the cache."""
        self.tokens = []
        self._cache = KVCache(self.model.config)

    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        end_tokens: Collection[int] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        constraint: TokenConstraint | None = None,
    ) -> Iterator[int]:
        """Yield new tokens after a prompt, without the one that ends the text.

        The iteration may be left at any time, also by an exception such as `KeyboardInterrupt`.

        Args:
            prompt: the whole text so far.
            max_new_tokens: the most tokens to yield.
            end_tokens: tokens that end the text.
            temperature: as for `mobilellm.models.generation.generate`, as the next three.
            top_k: see there.
            top_p: see there.
            seed: see there.
            constraint: which tokens may come next; it must allow an end token at the end.

        Raises:
            ValueError: the prompt is empty, the tokens exceed the context length, or the logits are
                not finite.
        """
        context = self.model.config.max_position_embeddings
        if not prompt or len(prompt) + max_new_tokens > context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens={max_new_tokens} must have "
                f"at least one token and fit into max_position_embeddings={context}"
            )
        device = next(self.model.parameters()).device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)

        def choose(logits: Float[Tensor, "1 vocab"]) -> int:
            allowed = None
            if constraint is not None:
                allowed = constraint.allowed(logits.shape[-1]).to(device)[None]
            settings = (temperature, top_k, top_p, generator)
            token = int(choose_tokens(logits, *settings, allowed=allowed))
            if constraint is not None:
                constraint.advance(token)
            return token

        yield from self._continue(list(prompt), max_new_tokens, end_tokens, choose)

    def _continue(
        self,
        prompt: list[int],
        max_new_tokens: int,
        end_tokens: Collection[int],
        choose: Callable[[Tensor], int],
    ) -> Iterator[int]:
        self._forget_other_tokens(prompt)
        new = prompt[len(self.tokens) :]
        self.num_computed = len(new)
        logits = self._forward(new)
        if self._decoder is None and can_pack(self.model, 1):
            self._decoder = PackedDecoder(self.model, 1)
        # The decoder has copies of its own.
        copies = nullcontext() if self._decoder else dense_copies(self.model)
        with copies:
            for number in range(1, max_new_tokens + 1):
                token = choose(logits)
                if token in end_tokens:
                    return
                yield token
                if number < max_new_tokens:
                    logits = self._step(token)

    def _forget_other_tokens(self, prompt: Sequence[int]) -> None:
        """Keep what the cache and the prompt have in common, but compute at least one token."""
        # After an interruption, the list and the cache may differ by what came last.
        kept = min(len(self.tokens), self._cache.length, len(prompt) - 1)
        pairs = zip(self.tokens[:kept], prompt[:kept], strict=True)
        kept = next((place for place, (old, new) in enumerate(pairs) if old != new), kept)
        self._cache.truncate(kept)
        del self.tokens[kept:]

    @torch.no_grad()
    def _forward(self, new: list[int]) -> Float[Tensor, "1 vocab"]:
        """Append tokens to the cache and return the logits after the last one."""
        device = next(self.model.parameters()).device
        output = self.model(torch.tensor([new], device=device), self._cache, logits=False)
        self.tokens += new
        return self.model.unembed(output.hidden[:, -1])

    @torch.no_grad()
    def _step(self, token: int) -> Float[Tensor, "1 vocab"]:
        if self._decoder is None:
            return self._forward([token])
        logits = self._decoder.step(torch.tensor([token]), self._cache)
        self.tokens.append(token)
        return logits
