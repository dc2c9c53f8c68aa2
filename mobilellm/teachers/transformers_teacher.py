"""Any causal language model that `transformers` opens, called as one of ours.

An optional extra: `pip install mobilellm[huggingface]`. Captured hidden states are those that
transformers gives, of which the last one is after the final norm.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobilellm.distillation.loss import Structure
from mobilellm.models.mobilellm import ModelOutput

CAPTURES = ("embedding", "hidden_states", "attention")


def describe_transformers(folder: str | Path) -> tuple[Structure, int | None]:
    """Structure and longest window, from the configuration alone.

    Raises:
        ValueError: transformers is missing, or has no such model.
    """
    config = _transformers().AutoConfig.from_pretrained(folder)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    structure = Structure(
        num_layers=layers,
        hidden_size=config.hidden_size,
        num_heads=(heads,) * layers,
        vocab_size=config.vocab_size,
        captures=CAPTURES,
    )
    return structure, getattr(config, "max_position_embeddings", None)


def open_transformers(folder: str | Path) -> "TransformersModel":
    """The model in a folder, on the CPU.

    Raises:
        ValueError: transformers is missing or cannot open it, or its logits are not a function
            of its last hidden states by its output embeddings alone.
    """
    transformers = _transformers()
    # Only this form gives attention weights.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
    ).float()
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
    """Gives `ModelOutput` as a `MobileLLM` does, without a cache."""

    def __init__(self, model: Any) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model

    def unembed(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocab)."""
        return self.model.get_output_embeddings()(hidden)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        logits: bool = False,
        capture: Collection[str] = (),
    ) -> ModelOutput:
        """As `MobileLLM.forward`; `attention_mask` (batch, queries, keys) or None."""
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

    def _additive(self, input_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask as transformers adds it to scores: (batch, 1, queries, keys), or None."""
        if mask is None:
            return None
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        dtype = self.model.dtype
        zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return zeros.masked_fill(~(mask & causal), torch.finfo(dtype).min).unsqueeze(1)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "a teacher that is no Llama needs transformers; install mobilellm[huggingface]"
        ) from error
    return transformers
