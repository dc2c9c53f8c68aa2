"""Simulated sweeps, written as real run folders."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from mobilellm.models.config import ModelConfig

VOCAB = 2048
BYTES_PER_TOKEN = 3.1
UNIGRAM, BIGRAM = 6.31, 4.62


def model(blocks=8, hidden=112, ffn=224, heads=7, groups=7, **fields):
    """A small shape."""
    return ModelConfig(
        **{"vocab_size": VOCAB, "head_dim": 16}
        | {"hidden_size": hidden, "intermediate_size": ffn, "num_blocks": blocks}
        | {"num_attention_heads": heads, "num_key_value_heads": groups}
        | fields
    )


SHAPES = {
    "2×208": (model(2, 208, 528, 13, 13), 4.305),
    "4×160": (model(4, 160, 360, 10, 5), 4.262),
    "8×112": (model(8, 112, 224, 7, 7), 4.215),
    "16×64": (model(16, 64, 256, 4, 2), 4.203),
    "24×64": (model(24, 64, 152, 4, 2), 4.221),
    "8×112 shared ×2": (model(8, 112, 224, 7, 7, block_repeats=2), 4.188),
}
"""About 1M body parameters each, and the final loss they are given."""


def count(config):
    """Stored, embedding, body and executed parameters, written out."""
    width, heads, groups = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    attention = 2 * width * heads * config.head_dim + 2 * width * groups * config.head_dim
    matrices = 3 if config.feed_forward == "swiglu" else 2
    sizes = config.intermediate_size
    feed_forward = max(sizes) if isinstance(sizes, tuple) else sizes
    block = attention + matrices * width * feed_forward + 2 * width
    embedding = config.vocab_size * width * (1 if config.tie_word_embeddings else 2)
    body = config.num_blocks * block + width
    executed = body + embedding + (config.block_repeats - 1) * config.num_blocks * block
    return {"stored": body + embedding, "embedding": embedding, "body": body, "executed": executed}


def flops(config, sequence_length):
    """Two per weight that is multiplied, and causal attention."""
    counts = count(config)
    run = counts["executed"] - counts["embedding"] + config.vocab_size * config.hidden_size
    heads = config.num_attention_heads * config.head_dim
    attention = 2 * config.num_layers * heads * sequence_length
    forward = 2 * run + attention
    return {
        "matmul": 2 * run, "attention": attention, "forward": forward, "training": 3 * forward,
    }  # fmt: skip


def kv_bytes(config):
    """Two bytes a value, keys and values."""
    return 4 * config.num_layers * config.num_key_value_heads * config.head_dim


def summary(config, *, seed=0, loss=4.2, tokens=1_000_000, **changes):
    """What a finished run leaves in summary.json."""
    speed = 26_000 / (1 + config.num_layers / 24)
    facts = {
        "status": "finished", "error": None, "experiment": "depth_vs_width", "seed": seed,
        "run": f"num_blocks={config.num_blocks},seed={seed}", "overrides": [f"seed={seed}"],
        "model": config.to_dict(), "parameters": count(config),
        "flops_per_token": flops(config, 256),
        "kv_cache_bytes_per_token": kv_bytes(config),
        "decode_bytes_per_token": 2 * count(config)["executed"] + 256 * kv_bytes(config),
        "sequence_length": 256, "tokens": tokens, "max_tokens": tokens, "steps": tokens // 2048,
        "tokens_per_step": 2048, "val_loss": loss,
        "val_bits_per_byte": loss / math.log(2) / BYTES_PER_TOKEN,
        "unigram_loss": UNIGRAM, "bigram_loss": BIGRAM, "learning_rate": 0.002,
        "learning_rates_tried": [
            {"learning_rate": rate, "val_loss": loss + 0.5 + abs(math.log2(rate / 0.002)) / 20}
            for rate in (0.001, 0.002, 0.004)
        ],
        "wall_seconds": tokens / speed, "tokens_per_second": speed,
        "peak_memory_bytes": 4.1e8 + 6e6 * config.num_layers, "model_flops_utilization": 0.61,
        "matmul_flops_per_second": 1.9e11,
        "hashes": {"data": "d" * 64, "tokenizer": "e" * 64, "train": "a" * 64,
                   "validation": "b" * 64},
        "data": {"name": "stdlib", "dir": "prepared/stdlib-2048"}, "optimizer": "adamw",
        "command": "python scripts/train.py -m experiment=depth_vs_width",
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"python": "3.12.3", "torch": "2.13.0", "lightning": "2.6.6"},
        "device": "AMD EPYC 9B14", "threads": 2, "precision": "32-true",
        "started_at": "2026-11-22T05:00:00+00:00", "finished_at": "2026-11-22T05:01:00+00:00",
    }  # fmt: skip
    return facts | changes


def write_run(folder, facts, *, rows=40, config=None):
    """Write one run folder, with a curve that ends at the summary's loss."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    settings = {
        "seed": facts["seed"], "experiment_name": facts["experiment"], "output_dir": "outputs",
        "max_tokens": facts["max_tokens"], "gradient_clip_norm": 1.0,
        "optimizer": {"_target_": "mobilellm.optim.adamw", "weight_decay": 0.1,
                      "learning_rate": 0.002},
        "data": {"dir": "prepared", "document_mask": False},
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(settings | (config or {})), encoding="utf-8")
    columns = [
        "step", "tokens", "seconds", "train/loss", "val/loss", "val/bits_per_byte",
        "learning_rate", "tokens_per_second", "gradient_norm",
    ]  # fmt: skip
    noise = np.random.default_rng(facts["seed"]).normal(0, 0.004, rows)
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in range(rows):
            share = (row + 1) / rows
            loss = facts["val_loss"] + 0.9 * (share**-0.35 - 1) + noise[row] * (share < 1)
            done = {
                "step": round(share * facts["steps"]), "tokens": round(share * facts["tokens"]),
                "seconds": share * facts["wall_seconds"], "learning_rate": 0.002,
            }  # fmt: skip
            writer.writerow(done | {"train/loss": loss - 0.1})
            if row % 2 == 1:
                bits = loss / math.log(2) / BYTES_PER_TOKEN
                writer.writerow(done | {"val/loss": loss, "val/bits_per_byte": bits})
    return folder


def write_sweep(folder, shapes=None, *, seeds=(0, 1, 2), noise=0.004, start=0, **changes):
    """Write a folder for each shape and seed; a seed moves all shapes together."""
    random = np.random.default_rng(start)
    orders = dict(zip(seeds, random.normal(0, 0.02, len(seeds)), strict=True))
    for name, (config, loss) in (shapes or SHAPES).items():
        for seed in seeds:
            final = float(loss + orders[seed] + random.normal(0, noise))
            facts = summary(config, seed=seed, loss=final, **changes)
            write_run(Path(folder) / f"{name},seed={seed}".replace(" ", "_"), facts)
    return Path(folder)
