import random

import pytest
import torch

from mobilellm.accounting import count_parameters, kv_cache_bytes_per_token
from mobilellm.models import MobileLLM, ModelConfig

SCHEMES = ["immediate", "repeat_all", "reverse", "sandwich", "last_first"]
pytestmark = pytest.mark.usefixtures("uneven_schemes")


def random_config(draw: random.Random) -> ModelConfig:
    """Any shape the configuration allows, sizes that differ by block included."""
    num_blocks = draw.randint(1, 5)

    def per_block(choose):
        return [choose() for _ in range(num_blocks)] if draw.random() < 0.3 else choose()

    group = draw.choice([1, 2, 3])
    kv_heads = per_block(lambda: draw.randint(1, 4))
    heads = [group * n for n in kv_heads] if isinstance(kv_heads, list) else group * kv_heads
    return ModelConfig(
        vocab_size=draw.randint(1, 97),
        hidden_size=draw.randint(1, 65),
        intermediate_size=per_block(lambda: draw.randint(1, 50)),
        num_blocks=num_blocks,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=2 * draw.randint(1, 8),
        block_repeats=draw.randint(1, 3),
        layer_sharing=draw.choice(SCHEMES),
        share_kv=draw.choice(["own", "first"]),
        tie_word_embeddings=draw.random() < 0.5,
        feed_forward=draw.choice(["swiglu", "relu"]),
        qk_norm=draw.choice(["none", "l2", "rms"]),
    )


def test_the_closed_form_counts_every_parameter_of_300_models():
    draw = random.Random(0)
    for _ in range(300):
        config = random_config(draw)
        with torch.device("meta"):
            model = MobileLLM(config)
        counts = count_parameters(config)
        assert counts.stored == sum(p.numel() for p in model.parameters()), config
        tables = [model.embedding] + ([] if model.head is None else [model.head])
        assert counts.embedding == sum(p.numel() for t in tables for p in t.parameters())
        assert counts.body == counts.stored - counts.embedding
        per_block = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
        repeats = sum(per_block[index] for index in config.layer_order) - sum(per_block)
        assert counts.executed == counts.stored + repeats


def test_kv_cache_counts_what_a_real_cache_holds():
    from mobilellm.models.cache import KVCache

    draw = random.Random(1)
    for _ in range(20):
        config = random_config(draw)
        cache = KVCache(config, capacity=8)
        ids = torch.randint(config.vocab_size, (1, 8))
        with torch.no_grad():
            MobileLLM(config)(ids, cache)
        assert cache.num_bytes == 8 * kv_cache_bytes_per_token(config, bytes_per_value=4), config


def test_first_keys_and_values_halve_the_cache_of_twice_run_blocks():
    shape = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_blocks": 3,
             "num_attention_heads": 2, "block_repeats": 2}  # fmt: skip
    own, first = (ModelConfig(**shape, share_kv=share_kv) for share_kv in ("own", "first"))
    assert kv_cache_bytes_per_token(own) == 2 * kv_cache_bytes_per_token(first)
    assert kv_cache_bytes_per_token(first) == 3 * 2 * 8 * 2


def test_nothing_of_torch_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, mobilellm.accounting, mobilellm.search.budget; "
        "heavy = {'torch', 'lightning', 'hydra', 'datasets', 'wandb', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("bytes_per_value", [0, -2, True, 1.5])
def test_bytes_per_value_must_be_a_whole_number(bytes_per_value):
    config = ModelConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_blocks=1,
                         num_attention_heads=1)  # fmt: skip
    with pytest.raises(
        ValueError, match=r"bytes_per_value=.* must be a whole number of at least 1"
    ):
        kv_cache_bytes_per_token(config, bytes_per_value)
