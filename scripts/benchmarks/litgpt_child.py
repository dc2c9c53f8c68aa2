"""Runs a training step of LitGPT for each line on stdin, in LitGPT's own environment."""

import json
import sys

import torch
from litgpt.config import Config  # pyright: ignore[reportMissingImports]
from litgpt.model import GPT  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Build the model that the first line describes, then run one step per line."""
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    model = GPT(
        Config(
            block_size=settings["sequence_length"],
            vocab_size=settings["vocab_size"],
            padded_vocab_size=settings["vocab_size"],
            n_layer=settings["num_layers"],
            n_embd=settings["hidden_size"],
            n_head=settings["num_attention_heads"],
            n_query_groups=settings["num_key_value_heads"],
            head_size=settings["head_dim"],
            intermediate_size=settings["intermediate_size"],
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
    )
    if settings["tie_word_embeddings"]:
        model.lm_head.weight = model.transformer.wte.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    shape = (settings["batch"], settings["sequence_length"] + 1)
    tokens = torch.randint(settings["vocab_size"], shape)
    report_done()
    for _ in sys.stdin:
        logits = model(tokens[:, :-1])
        targets = tokens[:, 1:].reshape(-1)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        report_done()


def report_done() -> None:
    """Tell the parent process that the step is done."""
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
