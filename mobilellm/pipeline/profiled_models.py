"""The models of a profile: saved ones, or presets with random weights, named on a command line."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mobilellm.formats.model_folder import open_config, open_model
from mobilellm.hydra_app.configuration import compose, config_folder, instantiate
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.checks import check_choice
from mobilellm.pipeline.export import model_name
from mobilellm.pipeline.model_hash import model_hash


@dataclass(frozen=True, kw_only=True)
class ProfiledModel:
    """A model that is measured."""

    name: str
    config: ModelConfig
    folder: Path | None
    """Of its weights; None: they are random. Times do not depend on the values of weights."""

    @property
    def weights(self) -> str:
        """`trained` or `random`."""
        return "random" if self.folder is None else "trained"

    def load(self) -> tuple[MobileLLM, Path | None]:
        """The model in 32 bits (quantized matrices as they are), and its tokenizer, if any."""
        if self.folder is not None:
            return open_model(self.folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MobileLLM(self.config).eval(), None

    def digest(self, model: MobileLLM | None = None) -> str:
        """Ten hexadecimal digits that tell apart the files of different models.

        Args:
            model: this model, if it was loaded already.
        """
        if self.folder is not None:
            return model_hash(model or self.load()[0])[:10]
        text = json.dumps(self.config.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def find_models(texts: Sequence[str]) -> tuple[ProfiledModel, ...]:
    """The models of a command line.

    Args:
        texts: each a folder, or `PRESET` or `PRESET:key=value,key=value` with settings of
            conf/model; `NAME=` before it gives a name to it.

    Raises:
        FileNotFoundError: a folder has no model.
        ValueError: a preset or one of its settings is not known, or two models have one name.
    """
    models = tuple(_find(text) for text in texts)
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{names.count(name)} models are called {name}; give each a name: NAME={name}"
            )
    return models


def _find(text: str) -> ProfiledModel:
    head, equals, rest = text.partition("=")
    is_named = bool(equals) and not any(mark in head for mark in ":/,") and bool(rest)
    given = rest if is_named else text
    folder = Path(given).expanduser()
    if folder.exists() or "/" in given:
        if not folder.exists():
            raise FileNotFoundError(f"{given} does not exist; give the folder of a model or a run")
        own, config, found = model_name(folder), open_config(folder), folder
    else:
        own, config, found = given, _preset(given), None
    return ProfiledModel(name=head if is_named else own, config=config, folder=found)


def _preset(text: str) -> ModelConfig:
    preset, _, settings = text.partition(":")
    known = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
    check_choice("MODEL (no folder has this name; a preset)", preset, known)
    overrides = [f"model.{setting}" for setting in settings.split(",") if setting]
    return instantiate(compose("train", [f"model={preset}", *overrides]).model)
