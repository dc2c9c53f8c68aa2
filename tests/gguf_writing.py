"""GGUF files of small models, written with the package's own writer."""

import json

import gguf

from mobilellm.data.tokenizers import open_tokenizer

BLOCK = {
    "attn_q": "attention.q_proj", "attn_k": "attention.k_proj", "attn_v": "attention.v_proj",
    "attn_output": "attention.o_proj", "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj", "ffn_down": "feed_forward.down_proj",
    "attn_norm": "attention_norm", "ffn_norm": "feed_forward_norm",
}  # fmt: skip


def pairs_from_halves(weight, heads):
    """The order of rows in GGUF files, by hand: row 2i + j of a head is row i + j · half."""
    rows = weight.shape[0]
    size = rows // heads
    order = [
        head * size + index + part * (size // 2)
        for head in range(heads) for index in range(size // 2) for part in range(2)
    ]  # fmt: skip
    return weight[order]


def write_gguf(path, model, tokenizer=None, *, quantization="F32", fields=(), tensors=()):
    """Write a model as GGUF file with the package's writer."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    shape = config.block_shapes[0]
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_blocks)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer)
    for add, value in fields:
        getattr(writer, add)(value)
    state = {"token_embd": model.embedding.weight, "output_norm": model.norm.weight}
    if model.head is not None:
        state["output"] = model.head.weight
    for index in range(config.num_blocks):
        for name, own in BLOCK.items():
            weight = model.get_submodule(f"blocks.{index}.{own}").weight
            if name in ("attn_q", "attn_k"):
                weight = pairs_from_halves(weight, weight.shape[0] // config.head_dim)
            state[f"blk.{index}.{name}"] = weight
    kind = gguf.GGMLQuantizationType[quantization]
    for name, weight in state.items():
        values = weight.detach().numpy()
        if values.ndim == 2 and quantization != "F32":
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, path):
    """Write a tokenizer as the converters of GGUF files do."""
    tokenizer = open_tokenizer(path)
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        special = {token["id"] for token in values["added_tokens"]}
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(pieces)
        writer.add_token_types([3 if token in special else 1 for token in range(len(pieces))])
        writer.add_token_merges([" ".join(merge) for merge in values["model"]["merges"]])
        writer.add_chat_template("{{ messages[0].content }}")
    else:
        own = tokenizer.processor
        kinds = [
            2 if own.is_unknown(t) else 3 if own.is_control(t) else 6 if own.is_byte(t) else 1
            for t in range(len(pieces))
        ]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores([own.get_score(token) for token in range(len(pieces))])
        writer.add_token_types(kinds)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
