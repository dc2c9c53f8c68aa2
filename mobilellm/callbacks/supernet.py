"""Training a model as a supernet, whose slices are smaller models of the family."""

import time
from typing import Any

from lightning.pytorch import Callback
from torch import Tensor

from mobilellm.evaluation.validation import sum_losses
from mobilellm.losses.loss_terms import LossTerm, Terms
from mobilellm.models import ModelConfig
from mobilellm.ranges import Range, checked
from mobilellm.search.supernet import Supernet
from mobilellm.search.supernet_space import SupernetSpace
from mobilellm.search.supernet_training import (
    sandwich,
    sub_network_loss,
    teacher_logits,
    training_flops,
)


class SupernetCallback(Callback):
    """Adds the losses of sub-networks to the training step: sandwich rule, in-place distillation.

    The trained model is the largest shape. `train/loss` and `val/loss` are its losses;
    `train/loss/smallest`, `train/loss/random_1`, … are those of the sub-networks of the step, and
    `val/loss_smallest` is the validation loss of the smallest shape.

    Args:
        space: the shapes of the sub-networks.
        num_random: number of random shapes in each step, besides the largest and the smallest.
        distillation_weight: w in the loss of a sub-network, (1 − w) × cross entropy of the labels +
            w × KL divergence from the largest shape.
        sub_network_weight: factor of all losses of sub-networks together, relative to that of the
            largest shape. The logged values are not multiplied by it.

    Raises:
        ValueError: a number is out of range, or `space` is not a `SupernetSpace`.

    Source: Yu and Huang 2019, arXiv:1903.05134, sections 3.1 and 3.3.
    """

    @checked(
        num_random=Range(at_least=0, cap=100, remedy="2 is common"),
        distillation_weight=Range(at_least=0, at_most=1),
        sub_network_weight=Range(above=0, cap=1e6, remedy="1 weighs them like the largest shape"),
    )
    def __init__(
        self,
        space: SupernetSpace,
        *,
        num_random: int = 2,
        distillation_weight: float = 0.5,
        sub_network_weight: float = 1.0,
    ) -> None:
        """Check and keep the settings."""
        self.space = space
        self.num_random = num_random
        self.distillation_weight = distillation_weight
        self.sub_network_weight = sub_network_weight
        self.smallest_loss: float | None = None
        """Validation loss of the smallest shape, nats per token."""

    @property
    def num_networks(self) -> int:
        """Forward passes in each step, of networks of different sizes."""
        return 2 + self.num_random

    def check(self, config: ModelConfig, *, strategy: str, is_compressed: bool) -> None:
        """Check the run before any data are read.

        Args:
            config: of the model that is trained.
            strategy: of the trainer.
            is_compressed: whether the run compresses the model.

        Raises:
            ValueError: the model is not the largest shape or does not contain one of the others,
                or the run shards or compresses it.
        """
        self.space.check(config)
        if strategy == "fsdp":
            raise ValueError(
                "a supernet takes slices of whole matrices, which trainer=fsdp shards; use "
                "trainer=ddp"
            )
        if is_compressed:
            raise ValueError(
                "compression replaces the model whose slices are trained; train the supernet, and "
                "compress the model that mobilellm extract cuts from it"
            )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the model.

        Raises:
            ValueError: see `check`.
        """
        self.space.check(pl_module.model.config)
        self.supernet = Supernet(pl_module.model)
        self.flops_per_token = training_flops(
            self.space, pl_module.model.config, num_random=self.num_random,
            sequence_length=trainer.datamodule.sequence_length,
        )  # fmt: skip

    def loss_terms(self, module: Any, batch: dict[str, Tensor], output: Any) -> Terms:
        """The losses of the sub-networks of this step, by their names in the log."""
        config, teacher = module.model.config, teacher_logits(module.model, output.hidden)
        shapes = sandwich(
            self.space, config, num_random=self.num_random,
            seed=module.trainer.datamodule.seed, step=module.global_step,
        )  # fmt: skip
        terms = {}
        for name, shape in shapes.items():
            network = self.supernet.sub_network(shape)
            network.set_activation_checkpointing(module.execution.activation_checkpointing)
            value = sub_network_loss(
                network, batch, teacher, distillation_weight=self.distillation_weight
            )
            terms[name] = LossTerm(value, self.sub_network_weight / len(shapes))
        return terms

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Validate the smallest shape whenever the largest is validated."""
        if not pl_module.is_validated(pl_module.global_step):
            return
        start = time.monotonic()
        data = trainer.datamodule
        with trainer.precision_plugin.forward_context():
            # Every rank measures all windows, because the result of this callback is not reduced.
            network = self.supernet.sub_network(self.space.smallest(pl_module.model.config))
            batches = data.all_validation_batches()
            self.smallest_loss = sum_losses(network, batches, device=pl_module.device).loss
        pl_module.validation_seconds += time.monotonic() - start
        pl_module.write_metrics({"val/loss_smallest": self.smallest_loss})

    def state_dict(self) -> dict[str, Any]:
        """The last result, for a run that is resumed after its last step."""
        return {} if self.smallest_loss is None else {"smallest_loss": self.smallest_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last result."""
        self.smallest_loss = state_dict.get("smallest_loss")

    def summary(self) -> dict[str, Any]:
        """The space and the settings, for summary.json."""
        return {
            "supernet": {
                "space": self.space.to_dict(),
                "num_random": self.num_random,
                "distillation_weight": self.distillation_weight,
                "sub_network_weight": self.sub_network_weight,
                "val_loss_smallest": self.smallest_loss,
                "training_flops_per_token": self.flops_per_token,
            }
        }
