"""Checks and opens models for an evaluation."""

from pathlib import Path

import torch

from mobilellm.accounting.storage import is_quantized
from mobilellm.command_names import command_for
from mobilellm.data.tokenizers import Tokenizer, load_tokenizer
from mobilellm.evaluation.language_model import LanguageModel
from mobilellm.evaluation.stored import read_evaluation
from mobilellm.formats.model_folder import (
    describe_missing_tokenizer,
    find_tokenizer,
    open_config,
    open_model,
    reads_bos_by_default,
)
from mobilellm.pipeline.conversation_tasks import chat_format
from mobilellm.pipeline.evaluation_settings import DEFAULT_DTYPE, EvaluationSettings


def check_model(folder: Path, settings: EvaluationSettings) -> None:
    """Check all that a model needs, without loading its weights.

    Raises:
        FileNotFoundError: a file of the model is missing.
        ValueError: a file is not valid, or a setting does not fit the model.
    """
    config = open_config(folder)
    context = config.max_position_embeddings
    if settings.dtype != DEFAULT_DTYPE and is_quantized(config):
        raise ValueError(
            f"--dtype {settings.dtype} is for models of floats, and matrices of {folder} are "
            f"quantized; use --dtype {DEFAULT_DTYPE}, or evaluate its export with dense matrices: "
            f"{command_for('export')} {folder} --format huggingface"
        )
    tokenizer = _open_tokenizer(folder, settings)
    if settings.chat:
        tokenizer.settings.required_template(tokenizer.path)
    if settings.conversation_tasks:
        chat_format(tokenizer, settings)
    if settings.text and settings.text_protocol.window > context:
        raise ValueError(
            f"window={settings.text_protocol.window} exceeds max_position_embeddings={context} of "
            f"{folder}; use --window {context} or less"
        )


def check_dtype(place: Path | None, settings: EvaluationSettings) -> None:
    """Refuse to mix results of several number types in a folder.

    Raises:
        ValueError: the folder has results of another one.
    """
    before = None if place is None else read_evaluation(place)
    if before is None:
        return
    known = before.get("dtype", DEFAULT_DTYPE)
    if known != settings.dtype:
        raise ValueError(
            f"{place} has results in {known}, and those in {settings.dtype} would be mixed with "
            f"them; give another folder with --out, or use --dtype {known}"
        )


def open_language_model(folder: Path, settings: EvaluationSettings) -> LanguageModel:
    """Load a model with its tokenizer and its protocol of special tokens.

    Args:
        folder: of a run, a model, or a Hugging Face model.
        settings: tokenizer, begin-of-text token, chat template, device and batch size.

    Raises:
        FileNotFoundError: the folder, a file of it, or its tokenizer is missing.
        ValueError: a file is not valid, or `chat` is wanted without a chat template.
    """
    tokenizer = _open_tokenizer(folder, settings)
    adds_bos = tokenizer.adds_bos if settings.add_bos is None else settings.add_bos
    if adds_bos is None:
        adds_bos = reads_bos_by_default(folder, tokenizer.bos_id)
    model, _ = open_model(folder)
    return LanguageModel(
        name=str(folder), model=model.eval().to(torch.device(settings.device)),
        tokenizer=tokenizer, adds_bos=adds_bos, is_chat=settings.chat,
        batch_tokens=settings.batch_tokens,
    )  # fmt: skip


def _open_tokenizer(folder: Path, settings: EvaluationSettings) -> Tokenizer:
    own = find_tokenizer(folder) if settings.tokenizer is None else settings.tokenizer
    if own is None:
        raise FileNotFoundError(
            f"{describe_missing_tokenizer(folder)}; give the tokenizer that the model was trained "
            "with: --tokenizer PATH"
        )
    return load_tokenizer(own, open_config(folder).vocab_size, name="tokenizer ")
