"""A student that begins with chosen layers of its teacher.

Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 3, which takes every other layer.
"""

from collections.abc import Sequence

import torch

from mobilellm.models import MobileLLM
from mobilellm.models.layer_selection import student_config


@torch.no_grad()
def student_of(teacher: MobileLLM, layers: Sequence[int]) -> MobileLLM:
    """A model of these layers with the teacher's weights; embedding, norm and head are copied.

    Raises:
        ValueError: layers out of range.
    """
    student = MobileLLM(student_config(teacher.config, layers))
    for name in ("embedding", "norm", "head"):
        part = getattr(teacher, name)
        if part is not None:
            getattr(student, name).load_state_dict(part.state_dict())
    for block, layer in zip(student.blocks, layers, strict=True):
        source = teacher.blocks[teacher.config.layer_order[layer]]
        block.load_state_dict(source.state_dict())
    return student
