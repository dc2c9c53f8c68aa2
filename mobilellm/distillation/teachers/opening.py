"""Open a teacher by its folder, whoever wrote it, and check that it fits the student and the data.

A folder is, in this order: a logit store; a model of ours or a run with one; a Llama-type Hugging
Face folder; any other causal language model that `transformers` can open.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.accounting import count_parameters
from mobilellm.distillation.logit_store.store import LogitStore, is_logit_store
from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.teachers.teacher import (
    ModelTeacher,
    StoredTeacher,
    Teacher,
    check_teacher_options,
    structure_of,
)
from mobilellm.formats.huggingface.config import NotRepresentable
from mobilellm.formats.model_folder import find_tokenizer, open_config, open_model
from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE, read_json

if TYPE_CHECKING:
    from mobilellm.data import PreparedData

# Most published models are stored in 16 bits.
BYTES_PER_STORED_WEIGHT = 2


@dataclass(frozen=True)
class TeacherFacts:
    """What is known of a teacher before its weights are read."""

    kind: str
    """`store`, `model` or `transformers`."""
    structure: Structure
    max_tokens: int | None
    """Longest window it can read; None: not limited, or not known."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a text; empty: not known."""
    parameters: int = 0
    """Weights that lie in memory; of a model for transformers a guess from its files."""


def describe_teacher(folder: str | Path) -> TeacherFacts:
    """Kind and structure of the teacher in a folder.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it cannot be represented, or a store that is not complete.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"teacher={folder} does not exist; give the folder of a model, a run or a logit store"
        )
    if is_logit_store(folder):
        store = LogitStore(folder)
        # A store's own check names what its windows are.
        return TeacherFacts("store", StoredTeacher(store).structure, None)
    if _is_llama(folder):
        config = open_config(folder)
        return facts_of(config)
    from mobilellm.distillation.teachers.transformers_teacher import describe_transformers

    structure, max_tokens, ends = describe_transformers(folder)
    stored = sum(p.stat().st_size for e in ("*.safetensors", "*.bin") for p in folder.glob(e))
    return TeacherFacts(
        "transformers", structure, max_tokens, ends, stored // BYTES_PER_STORED_WEIGHT
    )


def facts_of(config: ModelConfig) -> TeacherFacts:
    """What is known of one of our models."""
    parameters = count_parameters(config).stored
    return TeacherFacts(
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
    """The teacher in a folder, on the CPU.

    Args:
        folder: a logit store or a model.
        precision: of a model, see `ModelTeacher`.
        top_k: likewise.
        rounding: likewise.

    Raises:
        FileNotFoundError, ValueError: as `describe_teacher`; options that the teacher has not.
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
    facts: TeacherFacts, precision: str, top_k: int | None, rounding: str | None
) -> None:
    """Check how the teacher is to be run.

    Raises:
        ValueError: options out of range, or given for a store, which has its own.
    """
    if facts.kind != "store":
        check_teacher_options(precision, top_k, rounding, facts.structure.vocab_size)
    elif top_k is not None or rounding is not None or precision != "auto":
        raise ValueError(
            "top_k, rounding and teacher_precision belong to a teacher in memory; a logit store "
            "has those that scripts/prepare_logits.py was given: leave them out"
        )


def check_windows(folder: str | Path, *, sequence_length: int, document_mask: bool) -> None:
    """Check a store's windows against those of the run; a model reads any.

    Raises:
        ValueError: they differ.
    """
    if is_logit_store(folder):
        LogitStore(folder).check_windows(
            sequence_length=sequence_length, document_mask=document_mask
        )


def check_fits(facts: TeacherFacts, student: Structure, sequence_length: int) -> None:
    """Check vocabulary and window.

    Raises:
        ValueError: another vocabulary, a window that the teacher cannot read.
    """
    if facts.structure.vocab_size != student.vocab_size:
        raise ValueError(
            f"the teacher has {facts.structure.vocab_size} tokens, the student vocab_size="
            f"{student.vocab_size}; both need the same tokenizer: prepare the data with the "
            f"teacher's (data.tokenizer=…) and set model.vocab_size={facts.structure.vocab_size}"
        )
    if facts.max_tokens is not None and sequence_length > facts.max_tokens:
        raise ValueError(
            f"sequence_length={sequence_length} is longer than the teacher can read, "
            f"{facts.max_tokens} tokens; use at most that"
        )


def check_data(
    folder: str | Path,
    prepared: "PreparedData",
    *,
    vocab_size: int,
    sequence_length: int,
    document_mask: bool,
) -> None:
    """Check that the teacher speaks of the student's data, by its tokenizer.

    A model without a tokenizer.model is taken at its word: only the size of its vocabulary is
    known.

    Args:
        folder: of the teacher.
        prepared: the data.
        vocab_size: of the student.
        sequence_length: tokens per window.
        document_mask: whether documents are kept apart.

    Raises:
        ValueError: another tokenizer, or a store of other data or another window.
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
    from mobilellm.data.tokenizer import open_tokenizer, tokenizer_hash

    own, wanted = find_tokenizer(folder), prepared.hashes["tokenizer"]
    if own is None or wanted is None:
        return
    if tokenizer_hash(open_tokenizer(own, name="the teacher's tokenizer ")) != wanted:
        raise ValueError(
            f"the tokenizer of the teacher {folder} is another than that of the data in "
            f"{prepared.dir}; prepare the data with the teacher's: data.tokenizer={own}"
        )


def _is_llama(folder: Path) -> bool:
    """Whether the project's own classes represent the model; False leaves it to transformers."""
    try:
        open_config(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"teacher={folder} holds neither a model nor a logit store ({error})"
        ) from error
    except NotRepresentable:
        # A fault in the config.json of a Llama is raised: transformers would not name it.
        if "model_type" in read_json(folder / CONFIG_FILE):
            return False
        raise
    return True
