"""Writes a saved model in another format, with a card that says what it is."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

from mobilellm.files import new_folder, write_text_atomically
from mobilellm.formats.executorch import PTE_SUFFIX, export_executorch
from mobilellm.formats.export_summary import export_summary
from mobilellm.formats.gguf import export_gguf
from mobilellm.formats.gguf.file import GGUF_SUFFIX
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import (
    describe_missing_tokenizer,
    folder_with_config,
    open_model,
    tokenizer_files,
)
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.paths import check_new_folder, check_writable
from mobilellm.pipeline.export_settings import ExportSettings
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.report.model_card import CARD, ExportedModel, model_card
from mobilellm.run_folder import MODEL

_FILE_SUFFIXES = {"gguf": GGUF_SUFFIX, "executorch": PTE_SUFFIX}


@dataclass(frozen=True)
class _Source:
    """The model that is exported."""

    folder: Path
    name: str
    model: MobileLLM
    tokenizer: Path | None


def export_folder(folder: Path, out: Path, settings: ExportSettings) -> str:
    """Export the model in `folder`.

    Args:
        folder: of a saved model, a run, or a Hugging Face model.
        out: a new or empty folder, for the files and README.md; for GGUF and ExecuTorch also a new
            file that ends in .gguf or .pte, which gets no README.md beside it.
        settings: the format, and how the weights are stored.

    Returns:
        What was written, in words.

    Raises:
        ValueError, FileNotFoundError: the model cannot be exported so, or `out` is in use.
        OSError: the files could not be written; nothing is left of them.
    """
    is_file = out.suffix == _FILE_SUFFIXES.get(settings.format)
    if is_file:
        check_writable("--out", out.parent)
        if out.exists():
            raise ValueError(f"--out={out} exists and is never overwritten; give a new file")
    else:
        check_new_folder("--out", out)
    model, tokenizer = open_model(folder, as_stored=True)
    source = _Source(folder_with_config(folder), model_name(folder), model, tokenizer)
    write = {
        "huggingface": _write_huggingface, "gguf": _write_gguf, "executorch": _write_executorch
    }[settings.format]  # fmt: skip
    left_out = _left_out(model.config)
    if is_file:
        return "\n".join([write(source, out, settings)[0], *left_out])
    with new_folder(out) as temporary:
        text, exported = write(source, temporary, settings)
        text = "\n".join([text, *left_out])
        exported = replace(exported, written=[*exported.written, *left_out])
        card = model_card(model.config, exported, source.folder, _hash(model))
        write_text_atomically(temporary / CARD, card)
    return text.replace(str(temporary), str(out))


def model_name(folder: Path) -> str:
    """The name of a model's folder, or of the run that it belongs to."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == MODEL else folder.name


def _write_huggingface(
    source: _Source, out: Path, settings: ExportSettings
) -> tuple[str, ExportedModel]:
    custom = settings.custom_code
    export_huggingface(source.model, out, source.tokenizer, custom_code=custom)
    summary = export_summary(source.model, out, custom_code=custom)
    trust = ", trust_remote_code=True" if custom else ""
    usage = (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained(FOLDER{trust})\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n```"
    )
    exported = ExportedModel(
        name=source.name, format="a Hugging Face folder", written=[summary], usage=usage,
        library="transformers",
    )  # fmt: skip
    return f"{out}: {summary}", exported


def _write_gguf(source: _Source, out: Path, settings: ExportSettings) -> tuple[str, ExportedModel]:
    if source.tokenizer is None:
        raise FileNotFoundError(
            f"{describe_missing_tokenizer(source.folder)}, which llama.cpp needs; copy the "
            "tokenizer that the model was trained with into that folder"
        )
    kind = settings.kind or "f16"
    path = out if out.suffix == GGUF_SUFFIX else out / f"{source.name}-{kind}{GGUF_SUFFIX}"
    written = export_gguf(
        source.model, path, source.tokenizer, kind=kind, table_kind=settings.table_kind,
        fallback=settings.fallback, pre_tokenizer=settings.pre_tokenizer, name=source.name,
    )  # fmt: skip
    kinds = [one for one in dict.fromkeys(written.types.values()) if one != "f32"]
    usage = f'```text\nllama-cli -m {path.name} -p "Once upon a time"\n```'
    lines = replace(written, path=Path(path.name)).lines(path.stat().st_size)
    exported = ExportedModel(
        name=source.name, format="a GGUF file for llama.cpp", written=lines, usage=usage,
        rounded=" and ".join(kinds) or None,
    )  # fmt: skip
    return written.text(), exported


def _write_executorch(
    source: _Source, out: Path, settings: ExportSettings
) -> tuple[str, ExportedModel]:
    kind = settings.kind or "fp32"
    path = out if out.suffix == PTE_SUFFIX else out / f"{source.name}-{kind}{PTE_SUFFIX}"
    written = export_executorch(
        source.model, path, source.tokenizer, kind=kind, context=settings.context
    )
    if path != out and source.tokenizer is not None:
        for name, content in tokenizer_files(source.folder).items():  # pyright: ignore[reportOptionalMemberAccess]
            (out / name).write_bytes(content)
    exported = ExportedModel(
        name=source.name,
        format="an ExecuTorch program for XNNPACK",
        written=written.lines(),
        usage="`mobilellm.evaluation.engines.ExecuTorch` runs it in Python.",
        rounded=None if kind == "fp32" else kind,
    )
    return written.text(), exported


def _left_out(config: ModelConfig) -> list[str]:
    """Sentences about what the model computes and no export does."""
    formats = [
        getattr(shape, "quantized", None) or getattr(shape, "fake_quantized", None)
        for shape in config.layer_shapes.values()
    ]
    count = sum(found is not None and found.activation_bits is not None for found in formats)
    if not count:
        return []
    return [
        f"the model rounds the inputs of {count} of its matrices to 8 bits; the export does not"
    ]


def _hash(model: MobileLLM) -> str:
    """The hash of the model that an evaluation has, which reads weights in float32."""
    is_float = all(tensor.dtype.itemsize >= 4 for tensor in model.parameters())
    return model_hash(model if is_float else copy.deepcopy(model).float())
