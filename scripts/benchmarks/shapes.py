"""The models and batches that are measured."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from mobilellm.models import ModelConfig
from mobilellm.search.budget import config_for_budget

MODELS = Path(__file__).resolve().parents[2] / "conf/model"


@dataclass(frozen=True)
class Workload:
    """A model and the tokens of one training step."""

    name: str
    config: ModelConfig
    batch: int
    sequence_length: int

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.sequence_length


def demo_workloads() -> list[Workload]:
    """Return shapes with about 1M body parameters, from wide and shallow to deep and thin."""
    workloads = []
    for num_blocks in (2, 4, 8, 14, 24):
        config = config_for_budget(1e6, num_blocks, match="body", vocab_size=2048)
        name = f"{num_blocks}x{config.hidden_size}"
        workloads.append(Workload(name, config, batch=8, sequence_length=256))
    return workloads


def middle_workload(vocab_size: int = 4096, batch: int = 8, sequence_length: int = 256) -> Workload:
    """Return a workload with 12 blocks of width 256."""
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_blocks=12,
        num_attention_heads=4,
    )
    return Workload("12x256", config, batch, sequence_length)


def large_workload() -> Workload:
    """Return a workload with the shape of MobileLLM-125M and few tokens."""
    return Workload("30x576", mobilellm_125m(), batch=1, sequence_length=128)


def preset(name: str) -> ModelConfig:
    """Return the model of `conf/model/<name>.yaml`."""
    fields = OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))
    if not isinstance(fields, dict):
        raise TypeError(f"{name}.yaml must have fields")
    return ModelConfig(**{str(k): v for k, v in fields.items() if k != "_target_"})


def mobilellm_125m() -> ModelConfig:
    """Return the shape of MobileLLM-125M: 30 blocks of width 576."""
    return config_for_budget(124_635_456, num_blocks=30)
