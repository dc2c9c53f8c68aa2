"""Device profiles with times that follow a known law."""

from mobilellm.evaluation.device_profile import DeviceProfile, MeasuredShape
from mobilellm.models import ModelConfig
from mobilellm.provenance import device_name

FIXED, PER_LAYER, PER_WEIGHT, PER_HEAD_WEIGHT = 0.2, 0.15, 4e-7, 1e-7
"""Milliseconds."""


def shape(blocks, width, inner, *, heads=None, vocab=512, **fields):
    heads = heads or width // 16
    return ModelConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=inner, num_blocks=blocks,
        num_attention_heads=heads, head_dim=16, **fields,
    )  # fmt: skip


def true_time(config):
    """Milliseconds per token of a dense model with one key-value head per query head."""
    width = config.hidden_size
    groups = config.num_attention_heads // config.num_key_value_heads
    attention = 2 * width * width + 2 * width * width // groups
    layer = attention + 3 * width * config.intermediate_size
    return (
        FIXED
        + config.num_layers * (PER_LAYER + PER_WEIGHT * layer)
        + PER_HEAD_WEIGHT * config.vocab_size * width
    )


def profile(depths=(2, 4, 8, 16), widths=(64, 128, 256), times=true_time, vocab=512, **changes):
    shapes = [shape(depth, width, 3 * width, vocab=vocab) for depth in depths for width in widths]
    return DeviceProfile(
        **{
            "accelerator": "cpu", "device": device_name("cpu"), "threads": 1, "context": 64,
            "decode_tokens": 16, "rounds": 5, "versions": {"torch": "2"},
            "command": "mobilellm device-profile",
            "shapes": tuple(
                MeasuredShape(model=model, decode_ms_per_token=times(model)) for model in shapes
            ),
        } | changes
    )  # fmt: skip


def write_profile(path, **options):
    path.write_text(profile(**options).to_json(), encoding="utf-8")
    return str(path)
