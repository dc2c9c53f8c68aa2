"""Masked matrices on disk: kept values and a bit mask, smaller than the dense model."""

import pytest
import torch

from mobilellm.checkpoint import (
    CONFIG_FILE,
    FORMAT,
    WEIGHTS_FILE,
    load_model,
    read_tensors,
    save_model,
    stored_bytes,
    write_json,
    write_tensors,
)
from mobilellm.compression.pruning import Pruning
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.model_hash import model_hash

IDS = torch.tensor([[1, 5, 7, 3]])


def make_model(sparsity=0.5, dtype=torch.float32, layers=("*",)):
    """Sizes that no eight divide: 33x18 entries of the table, 21x18 of a projection."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=33, hidden_size=18, intermediate_size=21, num_blocks=2,
                         num_attention_heads=3, max_position_embeddings=32)  # fmt: skip
    dense = MobileLLM(config).to(dtype)
    recipe = Pruning(layers=list(layers), method="magnitude", sparsity=sparsity)
    return dense, recipe.apply(dense, recipe.plan(dense, []), []).model.eval()


def size(folder):
    return (folder / WEIGHTS_FILE).stat().st_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layers", [("*",), ("blocks.1.*",)])
def test_what_is_saved_comes_back_bit_for_bit(dtype, layers, tmp_path):
    _, model = make_model(dtype=dtype, layers=layers)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())
    assert model_hash(loaded) == model_hash(model)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_half_of_the_weights_it_is_smaller_than_dense(dtype, tmp_path):
    dense, model = make_model(dtype=dtype)
    save_model(dense, tmp_path / "dense")
    save_model(model, tmp_path / "masked")
    entries = sum(rows * columns for rows, columns in model.config.matrix_sizes.values())
    width = dtype.itemsize
    saved = entries // 2 * width - entries / 8
    assert stored_bytes(dense) == sum(p.numel() for p in dense.parameters()) * width
    gained = stored_bytes(dense) - stored_bytes(model)
    assert gained == pytest.approx(saved, abs=len(model.config.matrix_sizes))
    # Beside the numbers a file holds their names: two for each masked matrix, 200 bytes together.
    assert size(tmp_path / "masked") - stored_bytes(model) < 9000
    assert size(tmp_path / "masked") < size(tmp_path / "dense") - gained + 4000


def test_a_folder_written_before_masks_were_packed_loads(tmp_path):
    _, model = make_model()
    write_tensors(tmp_path / WEIGHTS_FILE, model.state_dict())
    write_json(tmp_path / CONFIG_FILE, {"format": FORMAT, **model.config.to_dict()})
    assert torch.equal(load_model(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_kept_weight_that_is_zero_stays_kept(tmp_path):
    _, model = make_model()
    layer = model.blocks[0].feed_forward.up_proj
    with torch.no_grad():
        layer.weight[layer.mask] = 0.0
    save_model(model, tmp_path)
    assert load_model(tmp_path).blocks[0].feed_forward.up_proj.mask.equal(layer.mask)


def test_a_loaded_masked_model_is_exported(tmp_path):
    _, model = make_model()
    save_model(model, tmp_path / "masked")
    export_huggingface(load_model(tmp_path / "masked"), tmp_path / "out")
    theirs = import_huggingface(tmp_path / "out").eval()
    torch.testing.assert_close(theirs(IDS).logits, model.eval()(IDS).logits)


@pytest.mark.parametrize(("suffix", "change", "message"), [
    ("mask_bits", lambda t: t[:-1], "mask_bits, but 33x18 entries need 75"),
    ("kept_values", lambda t: t[:-1], "296 kept_values, and its mask_bits keep 297"),
    ("kept_values", None, "no kept_values"),
    ("mask_bits", None, "kept_values but no mask_bits"),
])  # fmt: skip
def test_a_damaged_mask_is_refused(suffix, change, message, tmp_path):
    _, model = make_model()
    save_model(model, tmp_path)
    state = read_tensors(tmp_path / WEIGHTS_FILE)
    name = f"embedding.{suffix}"
    changed = None if change is None else change(state[name])
    state = {n: changed if n == name else t for n, t in state.items()}
    write_tensors(tmp_path / WEIGHTS_FILE, {n: t for n, t in state.items() if t is not None})
    with pytest.raises(ValueError, match=rf"model\.safetensors: embedding has .*{message}"):
        load_model(tmp_path)
