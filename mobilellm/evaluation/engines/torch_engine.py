"""A model of this project in torch itself, with its KV cache."""

from collections.abc import Sequence

import torch

from mobilellm.evaluation.engines.engine import Engine, Step
from mobilellm.models import MobileLLM
from mobilellm.models.cache import KVCache


class TorchEngine(Engine):
    """Runs `MobileLLM.forward` with a KV cache, on the device and in the type of the model.

    Args:
        model: in evaluation mode or not, which makes no difference; it is not changed.
        context: number of tokens that the cache has room for; default: it grows.
        top: number of tokens that `Step.log_probabilities` contains.
    """

    def __init__(self, model: MobileLLM, *, context: int | None = None, top: int = 2) -> None:
        """Keep the model."""
        self._model: MobileLLM | None = model
        self._context = context
        self._top = top
        self._cache = KVCache(model.config, capacity=context)

    def prefill(self, tokens: Sequence[int]) -> Step:
        """See `Engine`."""
        self._cache = KVCache(self._loaded.config, capacity=self._context)
        return self._read(tokens)

    def decode(self, token: int) -> Step:
        """See `Engine`."""
        return self._read([token])

    def close(self) -> None:
        """See `Engine`."""
        self._model = None

    @property
    def _loaded(self) -> MobileLLM:
        if self._model is None:
            raise ValueError("the engine is closed; create another one")
        return self._model

    @torch.no_grad()
    def _read(self, given: Sequence[int]) -> Step:
        model = self._loaded
        ids = torch.tensor([list(given)], device=model.norm.weight.device)  # pyright: ignore[reportArgumentType]
        hidden = model(ids, self._cache, logits=False).hidden[0, -1]
        found = model.unembed(hidden).float().log_softmax(-1).topk(self._top)
        tokens, values = found.indices.tolist(), found.values.tolist()
        return Step(tokens[0], dict(zip(tokens, values, strict=True)))
