"""Every part of a run is built once; a probe and the stages of compression build what they add."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import hydra.utils
import pytest
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from mobilellm.callbacks import CompressionCallback
from mobilellm.models import MobileLLM
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.module import LanguageModelModule

# Parts that the configuration does not name.
CLASSES = (CompressionCallback, CSVLogger, LanguageModelModule, MobileLLM, TokenDataModule, Trainer)


def targets(node: object) -> Iterator[str]:
    """Class or function names of all that a node describes."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node)
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"]).rpartition(".")[2]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from targets(value)


@pytest.fixture
def built(monkeypatch) -> Counter[str]:
    """How often each part is built; models on the meta device have no weights and do not count."""
    counts: Counter[str] = Counter()
    instantiate = hydra.utils.instantiate

    def count(node, *args, **options):
        counts.update(targets(node))
        return instantiate(node, *args, **options)

    monkeypatch.setattr(hydra.utils, "instantiate", count)
    for kind in CLASSES:

        def counted(self, *args, make=kind.__init__, name=kind.__name__, **options):
            make(self, *args, **options)
            if name != "MobileLLM" or not next(self.parameters()).is_meta:
                counts[name] += 1

        monkeypatch.setattr(kind, "__init__", counted)
    return counts


PARTS = ("TrainerConfig", "muon", "warmup_stable_decay", "ThroughputCallback",
         "GracefulStopCallback", "LossGuardCallback", "CheckpointCallback",
         "CSVLogger")  # fmt: skip
PER_FIT = ("LanguageModelModule", "Trainer")


@pytest.mark.parametrize("settings", [[], ["tokens_per_step=auto", "optimizer.learning_rate=auto"]])
def test_every_part_of_a_run_is_built_once(tiny_run, built, settings):
    """Also if the recipe rule needs the shape and the devices before."""
    tiny_run(*settings)
    assert {name: built[name] for name in (*PARTS, *PER_FIT)} == dict.fromkeys(
        (*PARTS, *PER_FIT), 1
    )
    assert (built["TokenDataModule"], built["MobileLLM"], built["TextData"]) == (1, 1, 1)


def test_stages_of_compression_build_no_part_again(tiny_run, low_rank_stages, built):
    tiny_run(
        *low_rank_stages, "+compression.first_start=0.25", "distillation=forward_kl",
        "distillation.teacher=dense",
    )  # fmt: skip
    once = (*PARTS, "CompressionCallback", "LowRank", "DistillationCallback", "ForwardKL")
    assert {name: built[name] for name in once} == dict.fromkeys(once, 1)
    assert built["Trainer"] == 4, "one per fit: before the first stage, and after each"
    assert built["TokenDataModule"] == 1


def test_each_probe_builds_its_own_callbacks_and_loggers(tiny_run, built):
    tiny_run(
        "learning_rate_probe=true", "learning_rate_probe_factors=[0.5,1]",
        "learning_rate_probe_widenings=0",
    )  # fmt: skip
    runs = 3
    own = ("CheckpointCallback", "LossGuardCallback", "CSVLogger", "TokenDataModule", "MobileLLM")
    assert {name: built[name] for name in own} == dict.fromkeys(own, runs)
    # The chosen learning rate is the optimizer's.
    assert built["muon"] == runs + 1
    once = ("TrainerConfig", "warmup_stable_decay", "TextData")
    assert {name: built[name] for name in once} == dict.fromkeys(once, 1)
