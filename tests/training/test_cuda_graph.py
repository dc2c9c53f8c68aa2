"""Training whose passes are CUDA graphs, compared with the same training without; needs a GPU."""

import pytest
import torch
from small_run import fit, make_data, make_module

from mobilellm.training.execution import Execution
from mobilellm.training.trainer import TrainerConfig

pytestmark = pytest.mark.gpu


def trained(cuda_graph, steps=8):
    torch.manual_seed(0)
    module = make_module(steps=steps, execution=Execution(cuda_graph=cuda_graph))
    config = TrainerConfig(accelerator="cuda", devices=1, precision="bf16-mixed")
    fit(module, make_data(micro_batch_size=4), config=config)
    return module


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_train_the_same_model():
    """Eight steps of two micro-batches: three passes as they are, the others as a graph."""
    plain, graphed = trained(False), trained(True)
    assert graphed._graphed_pass._graph is not None
    for mine, other in zip(plain.parameters(), graphed.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    assert plain.latest_metrics["train/loss"] == pytest.approx(
        graphed.latest_metrics["train/loss"], abs=1e-4
    )
