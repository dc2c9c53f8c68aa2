"""Tables of model costs for the terminal: one model in detail, or one row per model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mobilellm.units import bytes_text, duration_text, si_text

Explanation = Mapping[str, Any]
Row = tuple[str, str, str]


def model_table(explained: Explanation) -> RenderableType:
    """Create a table with all quantities of one model and explanations.

    Args:
        explained: the merged results of `explain_model` and `explain_training`, with `budget` if
            the model's shape was derived from a budget.
    """
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    sections = (_parameters, _compressed, _flops, _memory_at_rest, _training)
    for number, section in enumerate(sections):
        rows = list(section(explained))
        if number and rows:
            table.add_row()
        for row in rows:
            table.add_row(*row)
    return Group(Text(shape_line(explained["model"]), style="bold"), Text(), table)


def ladder_table(explained: Sequence[Explanation], names: Sequence[str] = ()) -> RenderableType:
    """Create a table with one row per model.

    Args:
        explained: as for `model_table`.
        names: labels of the rows; by default the rows are numbered.
    """
    rows = [_ladder_row(one) for one in explained]
    headings = list(dict.fromkeys(h for row in sorted(rows, key=len)[::-1] for h in row))
    if all(one["model"]["num_layers"] == one["model"]["num_blocks"] for one in explained):
        headings.remove("executed")
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for number, row in enumerate(rows):
        name = names[number] if number < len(names) else str(number + 1)
        table.add_row(name, *(row.get(heading, "") for heading in headings))
    first = explained[0]
    meant = (
        f"FLOPs: per token, forward, {_context(first)}. KV: cache per token, 16 bits. read: memory "
        f"read per decoded token, 16 bits, {_context(first)}. training: memory forecast, "
        f"{_batch(first)}, {first['precision']}."
    )
    return Group(table, Text(meant, style="dim"))


def scaling_table(explained: Sequence[Explanation], names: Sequence[str] = ()) -> RenderableType:
    """Step time and communication on many GPUs, one row per model and number of GPUs.

    Args:
        explained: as for `model_table`, with `scaling`, which contains `steps` (the fields of a
            `StepForecast` each), `strategy`, `precision` and `cluster`.
        names: labels of the models; by default they are numbered.
    """
    headings = ("GPUs", "step", "tokens/s", "sent", "communication", "exposed", "efficiency")
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for number, one in enumerate(explained):
        for row in one["scaling"]["steps"]:
            table.add_row(
                names[number] if number < len(names) else str(number + 1),
                f"{row['num_gpus']}",
                f"{1000 * row['step_seconds']:,.0f} ms",
                si_text(row["tokens_per_second"]),
                bytes_text(row["communication_bytes"]),
                f"{1000 * row['communication_seconds']:,.1f} ms",
                f"{row['exposed_share']:.1%}",
                f"{row['efficiency']:.1%}",
            )
    assumed = explained[0]["scaling"]
    meant = (
        f"Forecast of a step of {assumed['steps'][0]['tokens_per_step']:,} tokens, "
        f"micro-batches of {_batch(explained[0])}, {assumed['strategy']}, {assumed['precision']}, "
        f"on GPUs with {si_text(assumed['cluster']['flops_per_second'])}FLOP/s (scaling.cluster). "
        "sent: bytes that each GPU sends per step. exposed: share of the step that waits for "
        "communication. efficiency: throughput per GPU, relative to a single GPU."
    )
    return Group(Text(), table, Text(meant, style="dim"))


def _ladder_row(explained: Explanation) -> dict[str, str]:
    counts, model = explained["parameters"], explained["model"]
    row = {"layers": f"{model['num_layers']}", "width": f"{model['hidden_size']}"}
    row["stored"] = f"{counts['stored']:,}"
    if budget := explained.get("budget"):
        row["off budget"] = f"{budget['deviation']:+.2%}"
    if "nonzero" in counts:
        row["nonzero"] = f"{counts['nonzero']:,}"
    row["body"] = f"{counts['body']:,}"
    return row | {
        "executed": f"{counts['executed']:,}",
        "FLOPs": si_text(explained["flops_per_token"]["forward"]),
        "KV": bytes_text(explained["kv_cache_bytes_per_token"]),
        "read": bytes_text(explained["decode_bytes_per_token"]["16"]),
        "training": bytes_text(explained["training_memory_bytes"]["total"]),
    }


def shape_line(model: Mapping[str, Any]) -> str:
    """The shape of a model in one line."""
    kept = f"{model['num_blocks']} blocks"
    if model["num_layers"] > model["num_blocks"]:
        kept += f" run as {model['num_layers']} layers ({model['layer_sharing']})"
    heads = f"{model['num_attention_heads']} heads of {model['head_dim']}"
    if model["num_key_value_heads"] != model["num_attention_heads"]:
        heads += f" on {model['num_key_value_heads']} for keys and values"
    tie = "tied" if model["tie_word_embeddings"] else "untied"
    return (
        f"{kept}, width {model['hidden_size']}, {model['feed_forward']} "
        f"{model['intermediate_size']}, {heads}, vocabulary {model['vocab_size']:,}, {tie}"
    )


def _parameters(explained: Explanation) -> Iterator[Row]:
    counts, model = explained["parameters"], explained["model"]
    share = counts["embedding"] / counts["stored"]
    meant = f"{model['num_blocks']} blocks counted in each of {model['num_layers']} layers"
    yield "parameters", f"{counts['stored']:,}", "stored"
    yield "  embedding", f"{counts['embedding']:,}", f"{share:.1%} of those stored"
    yield "  body", f"{counts['body']:,}", "blocks and final norm"
    yield "  executed", f"{counts['executed']:,}", meant
    if "trained_parameters" in explained:
        trained = explained["trained_parameters"]
        share = trained / counts["stored"]
        yield "  trained", f"{trained:,}", f"{share:.2%} of those stored: the adapters"
    if "nonzero" in counts:
        masked = 1 - counts["nonzero"] / counts["stored"]
        yield "  nonzero", f"{counts['nonzero']:,}", f"{masked:.1%} of those stored are masked"
    if budget := explained.get("budget"):
        meant = f"from the budget of {budget['budget']:,} {budget['unit']}"
        yield "  off budget", f"{budget['deviation']:+.2%}", meant


def _compressed(explained: Explanation) -> Iterator[Row]:
    """One line per kind of matrix, for all blocks together."""
    kinds = explained.get("compressed_layers", ())
    if kinds:
        stored, dense = (sum(kind[key] for kind in kinds) for key in ("parameters", "dense"))
        yield "compressed", f"{stored:,}", f"parameters, in place of {dense:,}"
    for kind in kinds:
        number = "" if kind["of"] == 1 else f"{kind['compressed']} of {kind['of']}: "
        meant = f"{number}{kind['stored_as']}"
        if "bits_per_weight" in kind:
            meant += f"; {kind['bits_per_weight']:.3f} bits per weight"
        yield f"  {kind['matrix']}", f"{kind['parameters']:,}", meant
    if file := explained.get("file"):
        yield "  file", bytes_text(file["bytes"]["32"]), _file_text(file)


def _file_text(file: Mapping[str, Any]) -> str:
    """The size of the file of a quantized model, depending on the type of the other tensors."""
    bits = file["bits_per_weight"]
    return (
        f"{bits['32']:.3f} bits per weight, with {' and '.join(file['in_floats'])} in 32-bit "
        f"floats; {bytes_text(file['bytes']['16'])}, {bits['16']:.3f} bits in 16-bit floats"
    )


def _flops(explained: Explanation) -> Iterator[Row]:
    flops = explained["flops_per_token"]
    yield "FLOPs per token", si_text(flops["forward"]), f"forward, {_context(explained)}"
    yield "  matrix products", si_text(flops["matmul"]), "the output head included"
    yield "  attention", si_text(flops["attention"]), "causal, mean over the sequence"
    meant = "3 x forward"
    if "trained_parameters" in explained:
        meant = "forward, gradients of all activations, and of the adapters"
    yield "  training", si_text(flops["training"]), meant


def _memory_at_rest(explained: Explanation) -> Iterator[Row]:
    cache = explained["kv_cache_bytes_per_token"]
    whole = bytes_text(cache * explained["sequence_length"])
    yield "KV cache per token", bytes_text(cache), f"at 16 bits; {whole} for {_context(explained)}"
    cached = explained["decode_bytes_per_token_repeats_cached"]
    for bits, amount in explained["weight_bytes"].items():
        read = explained["decode_bytes_per_token"][bits]
        meant = f"{bytes_text(read)} read per decoded token, {_context(explained)}"
        if cached[bits] != read:
            meant += f"; {bytes_text(cached[bits])} if repeated blocks stay in the CPU cache"
        yield f"weights at {bits} bits", bytes_text(amount), meant


def _training(explained: Explanation) -> Iterator[Row]:
    memory, time = explained["training_memory_bytes"], explained["training_time"]
    yield (
        "training memory",
        bytes_text(memory["total"]),
        f"per device, forecast; {explained['precision']}",
    )
    yield "  weights", bytes_text(memory["weights"]), ""
    yield "  gradients", bytes_text(memory["gradients"]), ""
    yield "  optimizer", bytes_text(memory["optimizer"]), explained["optimizer"]
    kept = "only block inputs stored" if explained["activation_checkpointing"] else "all stored"
    yield (
        "  activations",
        bytes_text(memory["activations"]),
        f"micro-batch of {_batch(explained)}, {kept}",
    )
    yield "  loss", bytes_text(memory["loss"]), "one chunk of logits"
    yield (
        "checkpoint",
        bytes_text(explained["checkpoint_bytes"]),
        "each; training waits for its copy to the host"
        if explained["accelerator"] == "cuda"
        else "each; training waits until it is written and read back",
    )
    rate = f"{si_text(time['flops_per_second'])}FLOP/s"
    basis = "given" if time["rate_of"] == "given" else f"assumed, {time['rate_of']}"
    if time["num_devices"] > 1:
        rate += f" x {time['num_devices']} devices"
    yield (
        "training time",
        duration_text(time["seconds"]),
        f"{si_text(time['max_tokens'])} tokens at {rate} ({basis}: flops_per_second=…)",
    )


def _batch(explained: Explanation) -> str:
    return f"{explained['micro_batch_size']} x {explained['sequence_length']:,} tokens"


def _context(explained: Explanation) -> str:
    return f"{explained['sequence_length']:,} tokens"
