"""Any causal language model that `transformers` opens, with the interface of a MobileLLM.

This needs `pip install mobilellm[huggingface]`. The captured hidden states are those of
transformers: the last one is taken after the final norm.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from mobilellm.distillation.losses.loss import Structure
from mobilellm.models.attention_mask import dense_mask
from mobilellm.models.mobilellm import ModelOutput

CAPTURES = ("embedding", "hidden_states", "attention")


def describe_transformers(
    folder: str | Path,
) -> tuple[Structure, int | None, tuple[int, ...]]:
    """Structure, longest window in tokens and end-of-text tokens, from the configuration alone.

    Raises:
        ValueError: transformers is not installed, or the model is not a plain language model.
    """
    config = _transformers().AutoConfig.from_pretrained(folder)
    try:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        width, vocab_size = config.hidden_size, config.vocab_size
    except AttributeError as error:
        raise ValueError(
            f"the teacher in {folder} (model_type={config.model_type}) is not a plain language "
            f"model: {error}; use another teacher"
        ) from error
    structure = Structure(
        num_layers=layers,
        hidden_size=width,
        num_heads=(heads,) * layers,
        vocab_size=vocab_size,
        captures=CAPTURES,
    )
    ends = getattr(config, "eos_token_id", None)
    ends = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
    # The default of transformers may be outside the vocabulary: it is then not a token.
    known = tuple(end for end in ends if isinstance(end, int) and end < vocab_size)
    return structure, getattr(config, "max_position_embeddings", None), known


def open_transformers(folder: str | Path) -> "TransformersModel":
    """Load the model in a folder, on the CPU.

    Raises:
        ValueError: transformers is not installed or cannot open the model, weights are missing or
            unexpected, or the logits are not the output embedding applied to the hidden states.
    """
    model = _load(folder).float()
    teacher = TransformersModel(model)
    ids = torch.arange(4).unsqueeze(0) % model.config.vocab_size
    with torch.no_grad():
        expected = model.eval()(ids).logits
        found = teacher.unembed(teacher(ids).hidden)
    if not torch.allclose(expected, found, atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"the model in {folder} changes its logits after the output embedding (soft-capping or "
            "scaling), which is not supported; use another teacher"
        )
    return teacher


class TransformersModel(nn.Module):
    """Returns a `ModelOutput` like a `MobileLLM`, without a cache."""

    def __init__(self, model: Any) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., hidden) to logits (..., vocab)."""
        return self.model.get_output_embeddings()(hidden)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | BlockMask | None = None,
        logits: bool = False,
        capture: Collection[str] = (),
    ) -> ModelOutput:
        """See `MobileLLM.forward`; `attention_mask` is that of documents, or None."""
        output = self.model.base_model(
            input_ids=input_ids,
            attention_mask=self._additive(input_ids, attention_mask),
            output_hidden_states=bool({"hidden_states", "embedding"} & set(capture)),
            output_attentions="attention" in capture,
            use_cache=False,
        )
        captured: dict[str, list[Tensor]] = {}
        if "embedding" in capture:
            captured["embedding"] = [output.hidden_states[0]]
        if "hidden_states" in capture:
            captured["hidden_states"] = list(output.hidden_states[1:])
        if "attention" in capture:
            captured["attention"] = list(output.attentions)
        hidden = output.last_hidden_state
        return ModelOutput(hidden, self.unembed(hidden) if logits else None, captured)

    def _additive(self, input_ids: Tensor, mask: Tensor | BlockMask | None) -> Tensor | None:
        """The mask that transformers adds to the scores: (batch, 1, queries, keys), or None."""
        if mask is None:
            return None
        if isinstance(mask, BlockMask):
            mask = dense_mask(mask)[:, 0]  # pyright: ignore[reportOptionalSubscript]
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        dtype = self.model.dtype
        zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return zeros.masked_fill(~(mask & causal), torch.finfo(dtype).min).unsqueeze(1)


def _load(folder: str | Path) -> Any:
    """Load the model and check that no weight is missing; transformers would draw it at random.

    Raises:
        ValueError: files cannot be read, or weights are missing, unexpected or of another shape.
    """
    logging = _transformers().logging
    before = logging.get_verbosity()
    # The report of transformers is a long table; the errors below contain the important part.
    logging.set_verbosity_error()
    try:
        model, report = _transformers().AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation="eager",  # the only one that returns attention weights
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"transformers cannot open the teacher in {folder} ({reason}); download its files "
            "again, or use the configuration that they were saved with"
        ) from error
    finally:
        logging.set_verbosity(before)
    kinds = {"missing_keys": "missing", "unexpected_keys": "unexpected"}
    for key, kind in kinds.items():
        names = sorted(map(str, report[key]))
        if names:
            raise ValueError(
                f"{len(names)} weights of the teacher in {folder} are {kind}, e.g. {names[0]}; its "
                "config.json and weights belong to different models: download the whole folder"
            )
    return model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "a teacher that is not a Llama model needs transformers; install mobilellm[huggingface]"
        ) from error
    return transformers
