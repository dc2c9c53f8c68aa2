"""Open the teacher in a folder, and check that it fits the student and the data.

A folder is opened as the first of these that applies: a logit store; a model of this project, or a
run with one; a Hugging Face folder of a Llama model; any causal language model that `transformers`
can open.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.accounting import count_parameters
from mobilellm.command_names import command_for
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.distillation.logit_store.store import LogitStore, is_logit_store
from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.teachers.teacher import (
    ModelTeacher,
    StoredTeacher,
    Teacher,
    check_teacher_options,
    structure_of,
)
from mobilellm.formats.huggingface.architectures import NotRepresentable
from mobilellm.formats.model_folder import find_tokenizer, open_config, open_model
from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE, read_json

if TYPE_CHECKING:
    from mobilellm.data import PreparedData

# Most published models are stored in 16 bits.
BYTES_PER_STORED_WEIGHT = 2


@dataclass(frozen=True)
class TeacherDescription:
    """The properties of a teacher that are known before its weights are read."""

    kind: str
    """`store`, `model` or `transformers`."""
    structure: Structure
    max_tokens: int | None
    """Longest window in tokens; None: no limit, or not known."""
    eos_token_ids: tuple[int, ...] = ()
    """End-of-text tokens; empty: not known."""
    parameters: int = 0
    """Weights in memory; for a model of transformers, estimated from the size of its files."""


def describe_teacher(folder: str | Path) -> TeacherDescription:
    """Describe the teacher in a folder without reading its weights.

    Raises:
        FileNotFoundError: the folder does not exist or holds no teacher.
        ValueError: the model cannot be represented, or the logit store is not complete.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"teacher={folder} does not exist; give the folder of a model, a run or a logit store"
        )
    if is_logit_store(folder):
        store = LogitStore(folder)
        # The windows of a store are checked by `check_windows`, with a message of its own.
        return TeacherDescription("store", StoredTeacher(store).structure, None)
    if _is_llama(folder):
        config = open_config(folder)
        return describe_model(config)
    from mobilellm.distillation.teachers.transformers_teacher import describe_transformers

    structure, max_tokens, ends = describe_transformers(folder)
    stored = sum(p.stat().st_size for e in ("*.safetensors", "*.bin") for p in folder.glob(e))
    return TeacherDescription(
        "transformers", structure, max_tokens, ends, stored // BYTES_PER_STORED_WEIGHT
    )


def describe_model(config: ModelConfig) -> TeacherDescription:
    """Describe a model of this project as a teacher."""
    parameters = count_parameters(config).stored
    return TeacherDescription(
        "model",
        structure_of(config),
        config.max_position_embeddings,
        (config.eos_token_id,),
        parameters,
    )


def open_teacher(
    folder: str | Path,
    *,
    precision: str = "auto",
    top_k: int | None = None,
    rounding: str | None = None,
) -> Teacher:
    """Load the teacher in a folder, on the CPU.

    Args:
        folder: folder of a logit store or of a model.
        precision: see `ModelTeacher`; a logit store accepts the default only.
        top_k: likewise.
        rounding: likewise.

    Raises:
        FileNotFoundError, ValueError: see `describe_teacher` and `check_options`.
    """
    facts = describe_teacher(folder)
    check_options(facts, precision, top_k, rounding)
    if facts.kind == "store":
        store = LogitStore(folder)
        store.verify()
        return StoredTeacher(store)
    if facts.kind == "model":
        model: Any = open_model(folder)[0]
    else:
        from mobilellm.distillation.teachers.transformers_teacher import open_transformers

        model = open_transformers(folder)
    return ModelTeacher(model, facts.structure, precision=precision, top_k=top_k, rounding=rounding)


def check_options(
    facts: TeacherDescription, precision: str, top_k: int | None, rounding: str | None
) -> None:
    """Check the options of a teacher.

    Raises:
        ValueError: options are out of range, or given for a logit store, which has its own.
    """
    if facts.kind != "store":
        check_teacher_options(precision, top_k, rounding, facts.structure.vocab_size)
    elif top_k is not None or rounding is not None or precision != "auto":
        raise ValueError(
            "top_k, rounding and teacher_precision apply to a teacher in memory only; for a logit "
            f"store, {command_for('prepare_logits')} has fixed them: leave them out"
        )


def check_windows(folder: str | Path, *, sequence_length: int, document_mask: bool) -> None:
    """Check that a logit store has the windows of the run; other teachers accept any.

    Raises:
        ValueError: the windows differ.
    """
    if is_logit_store(folder):
        LogitStore(folder).check_windows(
            sequence_length=sequence_length, document_mask=document_mask
        )


def check_fits(facts: TeacherDescription, student: Structure, sequence_length: int) -> None:
    """Check that the teacher has the student's vocabulary and can read its windows.

    Raises:
        ValueError: the vocabularies differ, or the windows are too long for the teacher.
    """
    if facts.structure.vocab_size != student.vocab_size:
        raise ValueError(
            f"the teacher has vocab_size={facts.structure.vocab_size}, the student vocab_size="
            f"{student.vocab_size}; both need the same tokenizer: prepare the data with the "
            f"teacher's (data.tokenizer=…) and set model.vocab_size={facts.structure.vocab_size}"
        )
    if facts.max_tokens is not None and sequence_length > facts.max_tokens:
        raise ValueError(
            f"sequence_length={sequence_length} is longer than the teacher's context of "
            f"{facts.max_tokens} tokens; use sequence_length={facts.max_tokens} or less"
        )


def check_data(
    folder: str | Path,
    prepared: "PreparedData",
    *,
    vocab_size: int,
    sequence_length: int,
    document_mask: bool,
) -> None:
    """Check that the teacher has the tokenizer of the student's data.

    A model without a tokenizer is accepted, because only the size of its vocabulary is known.

    Args:
        folder: folder of the teacher.
        prepared: the data of the student.
        vocab_size: vocabulary size of the student.
        sequence_length: tokens per window.
        document_mask: whether attention is limited to the tokens of one document.

    Raises:
        ValueError: the tokenizers differ, or a logit store was made for other data or windows.
    """
    folder = Path(folder)
    if is_logit_store(folder):
        LogitStore(folder).check(
            vocab_size=vocab_size,
            sequence_length=sequence_length,
            document_mask=document_mask,
            data_hash=prepared.hashes["train"] or "",
            tokenizer_hash=prepared.hashes["tokenizer"],
        )
        return
    own, wanted = find_tokenizer(folder), prepared.hashes["tokenizer"]
    if own is None or wanted is None:
        return
    if open_tokenizer(own, name="the teacher's tokenizer ").fingerprint() != wanted:
        raise ValueError(
            f"the tokenizer of the teacher {folder} differs from that of the data in "
            f"{prepared.dir}; prepare the data with the teacher's: data.tokenizer={own}"
        )


def _is_llama(folder: Path) -> bool:
    """Whether this project can represent the model; otherwise transformers must open it."""
    try:
        open_config(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"teacher={folder} holds neither a model nor a logit store ({error})"
        ) from error
    except NotRepresentable:
        # Without a model_type, transformers cannot open the folder either: the error is raised.
        if "model_type" in read_json(folder / CONFIG_FILE):
            return False
        raise
    return True
