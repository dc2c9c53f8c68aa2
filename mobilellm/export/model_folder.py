"""Open a model whoever wrote it: our folder, a run's folder, or Hugging Face's."""

from pathlib import Path

from mobilellm.checkpoint import CONFIG_FILE, TOKENIZER_FILE, load_model, read_json
from mobilellm.export.huggingface import import_huggingface
from mobilellm.models import MobileLLM


def open_model(folder: str | Path) -> tuple[MobileLLM, Path | None]:
    """Load a model and find its tokenizer.

    Args:
        folder: written by `save_model`, a run's folder (its `model/` is taken), or a Llama-type
            Hugging Face folder.

    Returns:
        The model, in float32 where it comes from Hugging Face; the path of its tokenizer.model,
        or None.

    Raises:
        FileNotFoundError: nothing of the kind is there.
        ValueError: it cannot be represented, or its files contradict each other.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file() and (folder / "model" / CONFIG_FILE).is_file():
        folder = folder / "model"
    is_ours = "format" in read_json(folder / CONFIG_FILE)
    model = load_model(folder) if is_ours else import_huggingface(folder)
    tokenizer = folder / TOKENIZER_FILE
    return model, tokenizer if tokenizer.is_file() else None
