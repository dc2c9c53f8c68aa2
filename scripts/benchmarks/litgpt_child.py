"""Runs a training step of LitGPT for each line on stdin, in LitGPT's own environment."""

import json
import sys

import torch
from litgpt.model import GPT  # pyright: ignore[reportMissingImports]

from scripts.benchmarks.peer_models import litgpt_config


def main() -> None:
    """Build the model that the first line describes, then run one step per line."""
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    device = settings["device"]
    model = GPT(litgpt_config(settings["shape"], settings["sequence_length"])).to(device)
    if settings["shape"]["tie_word_embeddings"]:
        model.lm_head.weight = model.transformer.wte.weight
    if settings["compiles"]:
        torch.set_float32_matmul_precision("high")
        for block in model.transformer.h:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    shape = (settings["batch"], settings["sequence_length"] + 1)
    tokens = torch.randint(settings["shape"]["vocab_size"], shape, device=device)
    report_done()
    for _ in sys.stdin:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(tokens[:, :-1])
            targets = tokens[:, 1:].reshape(-1)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        report_done()


def report_done() -> None:
    """Tell the parent process that the step is done."""
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
