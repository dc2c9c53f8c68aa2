"""Linear layers of one input as one product, compared with one product each."""

import torch
from torch import nn
from torch.testing import assert_close

from mobilellm.models.joint_projection import can_join, joint_product, project


def make_layers():
    torch.manual_seed(0)
    return [nn.Linear(12, size, bias=False) for size in (12, 4, 6)]


def test_one_product_equals_one_for_each_layer():
    layers, found, wanted = make_layers(), {}, {}
    x = torch.randn(2, 5, 12, requires_grad=True)
    for results, outputs in ((found, joint_product(x, layers)), (wanted, project(x, *layers))):
        loss = sum((output * (index + 1)).square().sum() for index, output in enumerate(outputs))
        results["outputs"] = list(outputs)
        inputs = [x, *(layer.weight for layer in layers)]
        results["gradients"] = list(torch.autograd.grad(loss, inputs))
    for name, values in wanted.items():
        for mine, other in zip(found[name], values, strict=True):
            assert_close(mine, other)


def test_only_plain_matrices_that_nobody_observes_are_joined():
    layers = make_layers()
    assert can_join(layers)
    assert not can_join([*layers, nn.Linear(12, 3)])
    layers[1].register_forward_hook(lambda *_: None)
    assert not can_join(layers)


def test_cpus_keep_the_layers_apart():
    """The hook of a layer would be called if it ran by itself."""
    called, layers = [], make_layers()
    layers[0].forward = lambda x: called.append(x.shape) or x
    project(torch.randn(4000, 12), *layers)
    assert called == [(4000, 12)]
