"""Runs that train adapters: what they save, what they refuse, and how they go on."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_runs import assert_same, has_step, start, the_folder, wait_for

from mobilellm.adapters import Adapter, merge_adapters
from mobilellm.checkpoint import load_model
from mobilellm.compression.round_to_nearest import RoundToNearest
from mobilellm.models import MobileLLM
from mobilellm.models.generation import generate

SMALL = ["optimizer=adamw", "adapter.rank=2", "adapter.alpha=4"]
NF4 = "adapter.quantized={bits: 4, group: 8, levels: normal}"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(tiny_run, tmp_path):
    summary = tiny_run("max_tokens=512")
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}")) / "model"


def run_of(tmp_path, summary):
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow), "qlora"])
def test_a_run_trains_the_adapter_alone(kind, base, tiny_run, tmp_path):
    extra = [NF4] if kind == "qlora" else []
    summary = tiny_run(f"init_from={base}", "~model", f"adapter={kind}", *SMALL, *extra)
    folder = run_of(tmp_path, summary)
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert all(n.endswith(("lora_a", "lora_b", "magnitude")) for n in state["state_dict"])
    held = sum(tensor.numel() for tensor in state["state_dict"].values())
    assert held == summary["adapter"]["trained_parameters"]
    adapter = Adapter(
        rank=2, alpha=4, dora=kind == "dora",
        quantized={"bits": 4, "group": 8, "levels": "normal"} if kind == "qlora" else None,
    )  # fmt: skip
    adapted = adapter.adapt(load_model(base), seed=0)
    own = {name.removeprefix("model."): t for name, t in state["state_dict"].items()}
    adapted.load_state_dict(own, strict=False)
    final, ids = load_model(folder / "model"), torch.arange(20)[None]
    kinds = {shape.kind for shape in final.config.layer_shapes.values()}
    assert kinds == ({"adapted"} if kind == "qlora" else set())
    torch.testing.assert_close(final(ids).logits, adapted.eval()(ids).logits)
    assert not torch.allclose(final(ids).logits, load_model(base)(ids).logits)
    assert (folder / "adapter").exists() == (kind != "qlora")
    if kind != "qlora":
        again = replace(adapter, initial=str(folder / "adapter")).adapt(load_model(base), seed=1)
        torch.testing.assert_close(again(ids).logits, final(ids).logits)
    assert generate(final, ids[:, :2], max_new_tokens=2).shape == (1, 4)


def test_an_adapter_that_does_not_fit_is_refused(base, tiny_run, tmp_path):
    given = [f"init_from={base}", "~model", "adapter=lora", *SMALL]
    with pytest.raises(ValueError, match="adapter: a model with random weights has nothing"):
        tiny_run("adapter=lora")
    with pytest.raises(ValueError, match=r"adapter: targets='\*.query' matches no matrix"):
        tiny_run(*given, "adapter.targets=['*.query']")
    with pytest.raises(ValueError, match="tied to the embedding; select embedding instead"):
        tiny_run(*given, "adapter.targets=[head]")
    with pytest.raises(ValueError, match=r"rank=900, but the weight is .* use a rank of at most"):
        tiny_run(*given, "adapter.rank=900")
    with pytest.raises(ValueError, match="compression cannot be combined with an adapter"):
        tiny_run(*given, "compression=qat", "compression.group=8")
    with pytest.raises(ValueError, match="dora=true cannot be used for the token embedding"):
        tiny_run(*given, "adapter.targets=[embedding]", "adapter.dora=true")
    small = RoundToNearest(group=8)
    dense = load_model(base)
    packed = small.apply(dense, small.plan(dense, []), []).model
    with pytest.raises(ValueError, match=r"quantized rounds dense matrices, but blocks\.0"):
        Adapter(rank=1, alpha=1, quantized={"bits": 8}).configured(packed.config)
    twice = Adapter(rank=1, alpha=1).configured(packed.config)
    with pytest.raises(ValueError, match="have an adapter already"):
        Adapter(rank=1, alpha=1).configured(twice)


def test_a_shared_block_has_one_adapter_and_a_tied_table_too(base):
    config = replace(load_model(base).config, block_repeats=2)
    model = Adapter(rank=2, alpha=2, targets=["*"]).adapt(MobileLLM(config), seed=1)
    assert "changes the tied output head" in Adapter(rank=2, alpha=2, targets=["*"]).describe(
        config
    )
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(16)[None]
    merged = merge_adapters(model)
    assert merged.config == config
    torch.testing.assert_close(merged(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    model(ids).logits.square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(base, tiny_overrides, tmp_path):
    again = [
        *(o for o in tiny_overrides if not o.startswith("model=")), f"init_from={base}", "~model",
        "adapter=qlora", *SMALL, NF4, "adapter.dropout=0.2", "max_tokens=2560",
        "log_interval_steps=1", "callbacks.checkpoint.every_steps=4",
    ]  # fmt: skip
    assert start(*again, "experiment_name=alone").wait(timeout=240) == 0
    for step in (6, 15):
        process = start(*again, "experiment_name=killed", "resume=true")
        wait_for(process, lambda step=step: has_step(tmp_path / "outputs/killed", step))
        process.kill()
        process.wait()
    assert start(*again, "experiment_name=killed", "resume=true").wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), the_folder(tmp_path / "outputs/alone"))


@pytest.mark.slow
def test_two_processes_train_one_adapter(base, tiny_overrides, tiny_run, tmp_path):
    given = [f"init_from={base}", "adapter=lora", *SMALL]
    alone = tiny_run("~model", *given)
    rest = [o for o in tiny_overrides if o not in ("trainer=cpu", "model=debug")]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "experiment_name=two"]
    command = [sys.executable, "scripts/train.py", *rest, *given, *two]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    [path] = tmp_path.glob("outputs/two/*/summary.json")
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)
