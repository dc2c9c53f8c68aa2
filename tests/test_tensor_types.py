"""The shapes in the types of tensors are checked while the tests run."""

import pytest
import torch
from jaxtyping import TypeCheckError

from mobilellm.compression.algorithms.kronecker import truncated_svd


def test_a_tensor_of_another_shape_than_its_type_is_refused():
    with pytest.raises(TypeCheckError, match=r"Float\[Tensor, 'm n'\]"):
        truncated_svd(torch.ones(2, 3, 4), rank=1)


def test_types_of_other_values_are_left_to_the_package():
    u, s, v = truncated_svd(torch.ones(4, 3), rank=True)
    assert (u.shape, s.shape, v.shape) == ((4, 1), (1,), (3, 1))
