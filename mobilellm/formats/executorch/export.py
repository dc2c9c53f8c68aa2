"""Writes a model as a `.pte` file, which ExecuTorch runs on phones by XNNPACK."""

from pathlib import Path
from typing import Any

import torch

from mobilellm.checkpoint import model_file
from mobilellm.data.tokenizers import load_tokenizer
from mobilellm.formats.executorch.decoder import StaticDecoder
from mobilellm.formats.executorch.lowering import count_weights, lower
from mobilellm.formats.executorch.package import require_executorch
from mobilellm.formats.executorch.quantization import check_type, quantize
from mobilellm.formats.executorch.summary import ExecutorchExport
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.models import MobileLLM, ModelConfig

PTE_SUFFIX = ".pte"
DEFAULT_CONTEXT = 512
PREFILL_TOKENS = 64


def export_executorch(
    model: MobileLLM,
    path: str | Path,
    tokenizer: str | Path | None = None,
    *,
    kind: str = "fp32",
    context: int | None = None,
) -> ExecutorchExport:
    """Write a program that ExecuTorch runs with XNNPACK on a CPU.

    It has two methods that share weights and cache: `forward(tokens (1, 1), position (1,))` reads
    one token, and `prefill(tokens (1, n), position (1,), last (1,))` several, of which those after
    `last` are padding. Both return the logits (1, vocab) of the next token. Methods without inputs
    give the sizes, under the names that ExecuTorch's own runner of language models reads
    (`get_max_seq_len`, `get_vocab_size`, `get_bos_id`, `get_eos_ids`, `use_kv_cache`, …).

    Shared blocks are stored once. Multipliers become part of the weights, and compressed matrices
    are written as dense ones (`dense_weights`). Compiling takes minutes for models of many layers.

    Args:
        model: it is not changed.
        path: of the file, which must not exist.
        tokenizer: path of a tokenizer, whose end-of-text token is written as the model's.
        kind: type of the matrices: `fp32`, `8da8w` or `8da4w` (see `quantization`).
        context: tokens that the cache has room for; every step reads the whole cache. Default: that
            of the model, but at most 512.

    Returns:
        What was written.

    Raises:
        ValueError: the file exists, the type cannot hold the model, the context is longer than that
            of the model, or the package `executorch` is not installed.
        FileNotFoundError: the tokenizer does not exist.
        OSError: the file could not be written; nothing is left of it.
    """
    path, config = Path(path), model.config
    require_executorch(f"writing {path}")
    if path.exists():
        raise ValueError(f"{path} exists and is never overwritten; give a new file")
    context = _checked_context(context, config)
    if tokenizer is not None:
        opened = load_tokenizer(Path(tokenizer), config.vocab_size, name="tokenizer ")
        config = with_tokenizer_ids(config, opened)
    decoder = StaticDecoder(model, context).eval()
    check_type(decoder, kind)
    num_weights = count_weights(decoder)
    quantize(decoder, kind)
    count = min(PREFILL_TOKENS, context)
    methods = {
        "forward": (_tokens(1), torch.tensor([0])),
        "prefill": (_tokens(count), torch.tensor([0]), torch.tensor([count - 1])),
    }
    program, operators = lower(decoder, methods, _constants(config, context, count))
    with model_file(path) as temporary, temporary.open("wb") as file:
        program.write_to_file(file)
    caches = (
        tensor.nbytes
        for name, tensor in decoder.named_buffers()
        if name.startswith(("keys_", "values_"))
    )
    return ExecutorchExport(
        path, kind, config, num_weights, context, count, sum(caches), operators
    )  # fmt: skip


def _checked_context(context: int | None, config: ModelConfig) -> int:
    longest = config.max_position_embeddings
    if context is None:
        return min(DEFAULT_CONTEXT, longest)
    if not 1 <= context <= longest:
        raise ValueError(
            f"context={context} must lie between 1 and max_position_embeddings={longest}"
        )
    return context


def _tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


def _constants(config: ModelConfig, context: int, count: int) -> dict[str, Any]:
    """Values that ExecuTorch's runner reads, and the number of tokens of `prefill`."""
    return {
        "get_bos_id": config.bos_token_id,
        "get_eos_ids": [config.eos_token_id],
        "get_max_seq_len": context,
        "get_max_context_len": context,
        "get_n_layers": config.num_layers,
        "get_vocab_size": config.vocab_size,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": False,
        "get_prefill_tokens": count,
    }
