"""A supernet's training step: the sandwich rule and in-place distillation, against naive sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import Tokens, fit, make_data, make_model, make_module, read_rows, without_times

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.search.supernet import extract
from mobilellm.search.supernet_shape import shape_inside
from mobilellm.search.supernet_space import SupernetSpace
from mobilellm.search.supernet_training import sandwich, training_flops

SPACE = SupernetSpace(
    num_blocks=[1, 2], hidden_size=[8, 16], intermediate_size=[12, 24], num_attention_heads=[2, 4]
)


def supernet_callback(**changes):
    return SupernetCallback(**({"space": SPACE, "num_random": 1} | changes))


def naive_losses(model, shapes, batch, weight):
    """Losses of ordinary models of the shapes, from all logits in float64."""
    labels = batch["labels"].flatten()
    with torch.no_grad():
        whole = model(batch["input_ids"]).logits.double().flatten(0, 1).log_softmax(-1)
        found = {"": float(F.nll_loss(whole, labels))}
        for name, shape in shapes.items():
            small = extract(model, shape)(batch["input_ids"]).logits.double().flatten(0, 1)
            small = small.log_softmax(-1)
            divergence = (whole.exp() * (whole - small)).sum(-1).mean()
            nats = F.nll_loss(small, labels)
            found[f"/{name}"] = float((1 - weight) * nats + weight * divergence)
    return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("micro_batch_size", [2, 8])
def test_the_first_step_logs_the_losses_of_extracted_models(weight, micro_batch_size, tmp_path):
    model = make_model()
    batch = next(iter(make_data().train_dataloader()))[0]
    shapes = sandwich(SPACE, model.config, num_random=1, seed=3, step=0)
    expected = naive_losses(model, shapes, batch, weight)
    module = make_module(1, model=model)
    callback = supernet_callback(distillation_weight=weight)
    fit(module, make_data(micro_batch_size), tmp_path, callbacks=[callback])
    row = next(row for row in read_rows(tmp_path) if row["step"] == "1")
    for name, value in expected.items():
        assert float(row[f"train/loss{name}"]) == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_gradients_are_the_weighted_sum_over_all_networks(tmp_path):
    """The optimizer gets the naive gradient of the sum of all losses, with masks for slices."""
    model, reference = make_model(), make_model()
    batch = next(iter(make_data().train_dataloader()))[0]
    ids, labels = batch["input_ids"], batch["labels"].flatten()
    whole = reference(ids).logits.flatten(0, 1).log_softmax(-1)
    loss = F.nll_loss(whole, labels)
    whole = whole.detach()
    for shape in sandwich(SPACE, model.config, num_random=1, seed=3, step=0).values():
        small = naive_slice_forward(reference, shape, ids)
        loss = loss + 0.6 / 2 * (whole.exp() * (whole - small)).sum(-1).mean()
    loss.backward()
    gradients = {}

    def recording_sgd(module, learning_rate):
        optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate)
        keep = {name: p for name, p in module.named_parameters()}
        optimizer.register_step_pre_hook(
            lambda *_: gradients.update({name: p.grad.clone() for name, p in keep.items()})
        )
        return optimizer

    module = make_module(1, model=model, optimizer=recording_sgd, gradient_clip_norm=None)
    callback = supernet_callback(distillation_weight=1.0, sub_network_weight=0.6)
    fit(module, make_data(), tmp_path, callbacks=[callback])
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-4)


def naive_slice_forward(model, shape, ids):
    """Log-probabilities of the shape: the whole model, with everything else set to nothing.

    A removed channel or head has zero columns in the matrix that reads it. Removed entries of the
    stream are zero, and the mean square of a norm is that of the remaining entries.
    """
    config, width, dim = model.config, shape.hidden_size, shape.head_dim
    entries = (torch.arange(config.hidden_size) < width).float()
    order = [0, 1] if shape.num_blocks == 2 else [0]

    def normed(x, norm):
        mean = (x * x * entries).sum(-1, keepdim=True) / width
        return x / (mean + config.rms_norm_eps).sqrt() * norm.weight * entries

    size = config.num_attention_heads // config.num_key_value_heads
    kept = shape.num_attention_heads // shape.num_key_value_heads
    heads = torch.tensor([
        h // size < shape.num_key_value_heads and h % size < kept
        for h in range(config.num_attention_heads)
    ])  # fmt: skip
    columns = heads.repeat_interleave(dim).float()
    channels = (torch.arange(config.intermediate_size) < shape.intermediate_size).float()
    x = model.embedding(ids) * entries
    from mobilellm.models.rotary import make_rotary

    rotary = make_rotary(torch.arange(ids.shape[1])[None], dim, config.rope_theta)
    for index in order:
        block = model.blocks[index]
        hooks = [
            block.attention.o_proj.register_forward_pre_hook(lambda _, a: (a[0] * columns,)),
            block.feed_forward.down_proj.register_forward_pre_hook(lambda _, a: (a[0] * channels,)),
        ]
        attended, _, _ = block.attention(normed(x, block.attention_norm), rotary)
        x = (x + attended) * entries
        x = (x + block.feed_forward(normed(x, block.feed_forward_norm))) * entries
        for hook in hooks:
            hook.remove()
    return model.unembed(normed(x, model.norm)).flatten(0, 1).log_softmax(-1)


def test_shapes_of_a_step_follow_from_seed_and_step():
    config = make_model().config
    first = sandwich(SPACE, config, num_random=3, seed=1, step=5)
    assert first == sandwich(SPACE, config, num_random=3, seed=1, step=5)
    others = [sandwich(SPACE, config, num_random=3, seed=s, step=t) for s, t in ((1, 6), (2, 5))]
    assert all(other != first for other in others)
    assert first["smallest"] == shape_inside(
        config, num_blocks=1, hidden_size=8, intermediate_size=12, num_attention_heads=2
    )


def test_random_shapes_are_uniform_over_the_space():
    config, counts = make_model().config, {}
    steps = 1000
    for step in range(steps):
        shape = sandwich(SPACE, config, num_random=1, seed=0, step=step)["random_1"]
        counts[shape] = counts.get(shape, 0) + 1
    assert len(counts) == SPACE.num_shapes - 1 == 15
    assert config not in counts, "the supernet learns nothing from itself"
    expected = steps / 15
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 36.1  # 99.9 % quantile with 14 degrees of freedom


def test_a_resumed_run_continues_exactly(tmp_path):
    whole = make_module(8, validate=4)
    fit(whole, make_data(), tmp_path / "whole", callbacks=[supernet_callback()])
    folder = tmp_path / "resumed"
    saves = CheckpointCallback(folder / "checkpoints", every_seconds=None, every_steps=4)
    part = make_module(8, validate=4)
    fit(part, make_data(), folder, callbacks=[supernet_callback(), saves])
    continued = make_module(8, validate=4)
    saved = folder / "checkpoints" / "previous.ckpt"
    fit(continued, make_data(), tmp_path / "again", callbacks=[supernet_callback()], resume=saved)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(continued.model.named_parameters())[name])
    rows = {r["step"]: r for r in without_times(read_rows(tmp_path / "whole"))}
    again = {r["step"]: r for r in without_times(read_rows(tmp_path / "again"))}
    assert again["8"] == rows["8"]


def test_the_smallest_shape_is_validated_and_improves(tmp_path):
    module, callback = make_module(30, validate=15), supernet_callback()
    start = make_model()
    fit(module, make_data(tokens=Tokens(6000)), tmp_path, callbacks=[callback])
    small = extract(module.model, SPACE.smallest(module.model.config))
    batches = list(make_data(tokens=Tokens(6000)).all_validation_batches())

    def loss(model):
        nats, count = 0.0, 0
        for batch in batches:
            with torch.no_grad():
                logits = model(batch["input_ids"]).logits.flatten(0, 1)
            labels = batch["labels"].flatten()
            nats += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += labels.numel()
        return nats / count

    untrained = extract(start, SPACE.smallest(start.config))
    facts = callback.summary()["supernet"]
    assert facts["val_loss_smallest"] == pytest.approx(loss(small), rel=1e-5)
    assert loss(small) < loss(untrained) - 0.5
    rows = [row for row in read_rows(tmp_path) if row.get("val/loss_smallest")]
    assert [row["step"] for row in rows] == ["15", "30"]
    assert facts["space"]["hidden_size"] == [8, 16]


def test_the_cost_is_the_mean_over_the_networks_of_a_step():
    from mobilellm.accounting import flops_per_token

    config = make_model().config
    each = [flops_per_token(shape, 16).training for shape in SPACE.shapes(config)]
    teacher = 2 * config.vocab_size * config.hidden_size
    expected = each[-1] + each[0] + 2 * np.mean(each[:-1]) + 3 * teacher
    found = training_flops(SPACE, config, num_random=2, sequence_length=16)
    assert found == pytest.approx(expected)


def test_unsuitable_runs_are_refused():
    callback, config = supernet_callback(), make_model().config
    with pytest.raises(ValueError, match="which trainer=fsdp shards; use trainer=ddp"):
        callback.check(config, strategy="fsdp", is_compressed=False)
    with pytest.raises(ValueError, match="train the supernet, and compress the model that"):
        callback.check(config, strategy="auto", is_compressed=True)
    with pytest.raises(ValueError, match="must end with the size of the supernet itself"):
        callback.check(make_model(num_blocks=3).config, strategy="auto", is_compressed=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_random": -1}, "num_random=-1 must be"),
        ({"distillation_weight": 1.5}, "distillation_weight=1.5 must be"),
        ({"sub_network_weight": 0.0}, "sub_network_weight=0.0 must be above 0"),
        ({"space": None}, "space=None must be SupernetSpace"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        supernet_callback(**changes)
