"""Describes a data folder in a few lines of text."""

from collections.abc import Iterator

from mobilellm.data.prepared import PreparedData
from mobilellm.files import TOKENIZER_FILE
from mobilellm.units import bytes_text


def overview(prepared: PreparedData) -> Iterator[str]:
    """Yield lines with the sizes, the vocabulary, the baselines and the time of preparation."""
    manifest = prepared.manifest
    yield f"{manifest['name']} in {prepared.dir}"
    yield ""
    yield f"{'':<12}{'documents':>12}{'bytes of text':>16}{'tokens':>14}{'bytes/token':>13}"
    for split, sizes in manifest["splits"].items():
        known, tokens = sizes["text_bytes"], sizes["tokens"]
        text = f"{known:>16,}" if known else f"{'not known':>16}"
        ratio = f"{known / tokens:>13.2f}" if known else f"{'':>13}"
        yield f"{split:<12}{sizes['documents']:>12,}{text}{tokens:>14,}{ratio}"
    for split, sizes in manifest["splits"].items():
        if "trained_tokens" in sizes:
            left_out = sizes["untrained_documents"]
            yield (
                f"{split:<12}{sizes['trained_tokens']:,} tokens in {sizes['turns']:,} turns are "
                "trained" + (f"; {left_out:,} rows have none and are left out" if left_out else "")
            )
    yield ""
    yield f"vocabulary  {prepared.vocab_size:,} tokens, {_tokenizer(prepared)}"
    begin = begin_of_documents(prepared)
    if begin is not None:
        yield f"documents   {begin}"
    losses = prepared.baselines
    yield (
        f"baselines   unigram {losses['unigram_nats_per_token']:.3f}, bigram "
        f"{losses['bigram_nats_per_token']:.3f} nats per token on validation"
    )
    if manifest.get("held_out") == "last_share":
        yield "validation  the end of the text, because there are too few documents"
    yield from _changes(prepared)
    size = sum(sizes["text_bytes"] or 0 for sizes in manifest["splits"].values())
    speed = size / manifest["tokenizing_seconds"]
    tokenizing = f", tokenizing {bytes_text(speed)}/s" if size else ""
    yield f"prepared    in {manifest['seconds']:.1f} s{tokenizing}"


def begin_of_documents(prepared: PreparedData) -> str | None:
    """The tokens around documents as text; None if there are only end-of-text tokens."""
    if prepared.bos_token_id is None:
        return None
    end = f"end with token {prepared.eos_token_id}" if prepared.adds_eos else "have no end token"
    return f"begin with token {prepared.bos_token_id} and {end}"


def _tokenizer(prepared: PreparedData) -> str:
    sample = prepared.manifest["tokenizer_sample_bytes"]
    if sample:
        whole = prepared.manifest["tokenizer_sampled_from_bytes"]
        return f"trained on {bytes_text(sample)} of {bytes_text(whole)}"
    return "the given tokenizer" if prepared.tokenizer_path else "the data were given as token ids"


def _changes(prepared: PreparedData) -> Iterator[str]:
    """Notes about text that the tokens do not represent exactly."""
    manifest = prepared.manifest
    if manifest["unknown_tokens"]:
        yield f"note        {manifest['unknown_tokens']:,} characters are unknown to the tokenizer"
    path = prepared.tokenizer_path
    if manifest["space_marks"] and path is not None and path.name == TOKENIZER_FILE:
        yield (
            f"note        the text has U+2581 {manifest['space_marks']:,} times, which the "
            "tokenizer decodes as a space"
        )
    elif any(
        None not in (sizes["text_bytes"], sizes["token_bytes"])
        and sizes["text_bytes"] != sizes["token_bytes"]
        for sizes in manifest["splits"].values()
    ):
        yield "note        the tokenizer changes the text: its tokens stand for " + ", ".join(
            f"{sizes['token_bytes'] - sizes['text_bytes']:+,} bytes in {split}"
            for split, sizes in manifest["splits"].items()
        )
