"""Reads the configuration of a search: its space, its settings, and what all trials share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mobilellm.callbacks import LossGuardCallback
from mobilellm.cli.errors import CommandError, listed, nearest
from mobilellm.compression.quantization_recipe import QuantizationRecipe
from mobilellm.hydra_app.configuration import plain_config
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.hydra_app.root_schema import SEARCH_KEYS
from mobilellm.models import ModelConfig
from mobilellm.paths import user_path
from mobilellm.pipeline.identity import identity
from mobilellm.pipeline.recipe import make_recipe
from mobilellm.pipeline.results import entries_with_numbers
from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS, flat_config
from mobilellm.search.space import Feasibility, SearchSpace, parse_space
from mobilellm.search.space.constraints import COSTS
from mobilellm.search.space.domains import Choices, Span
from mobilellm.search.study.objectives import LOSSES
from mobilellm.search.study.settings import StudySettings, parse_settings

MODEL, COMPRESSION = "model.", "compression."


@dataclass(frozen=True)
class SearchSetup:
    """A checked search."""

    space: SearchSpace
    settings: StudySettings
    feasibility: Feasibility
    run: DictConfig
    """The configuration that all trials share."""
    root: Path
    """The folder of the runs of the study."""

    @property
    def description(self) -> dict[str, Any]:
        """What must not change when the study is opened again, as plain data for JSON."""
        shared = identity(plain_config(self.run))
        searched = self.space.names
        return {
            "space": self.space.to_dict(),
            "objectives": list(self.settings.objectives),
            "constraints": _constraints(self.settings),
            "run": {key: value for key, value in shared.items() if key not in searched},
            "pruning": self._pruning,
        }

    @property
    def _pruning(self) -> dict[str, Any] | None:
        """What a trial needs to decide whether it continues; None without pruning."""
        rule = self.settings.pruning_rule
        if rule is None:
            return None
        return {
            "rule": asdict(rule),
            "metric": self.settings.loss,
            "costs": [one.name for one in self.settings.parsed_objectives if one.is_cost],
            "budget": float(self.run.max_tokens),
        }


def read_search(cfg: DictConfig) -> SearchSetup:
    """Read and check the configuration of a search.

    Raises:
        ValueError, TypeError, FileNotFoundError: the space or a setting is not valid.
    """
    cfg = checked_config("search", cfg)
    settings = parse_settings(_plain(cfg.search))
    space = parse_space(_plain(cfg.search_space))
    run = run_config(cfg)
    for key in ("init_from", "extend_from"):
        if run.get(key) is not None:
            raise CommandError(
                f"{key}={run[key]} gives the shape of the model, which a search varies; leave it "
                "out"
            )
    check_names(space, run)
    _check_objectives(run, settings)
    _check_losses(space, settings)
    _check_budget(run, settings)
    if run.compression and settings.limits.latency_profile is not None:
        raise CommandError(
            "search.constraints.latency_profile is of models of floats, but compression="
            f"{run.compression._target_} quantizes the trials; leave out one of them"
        )
    depth = plain_config(run.model).get("num_blocks")
    feasibility = Feasibility(
        space, settings.limits, saved_model_builder(run), depth if isinstance(depth, int) else None
    )
    root = user_path(str(run.output_dir)) / str(run.experiment_name)
    return SearchSetup(space, settings, feasibility, run, root)


def run_config(cfg: DictConfig) -> DictConfig:
    """The configuration without the keys that only a search has."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    return OmegaConf.create({key: plain[key] for key in plain if key not in SEARCH_KEYS})


def drop_search_keys(config: DictConfig) -> None:
    """Remove the keys that only a search has from the composed configuration of a trial."""
    with read_write(config), open_dict(config):
        for key in SEARCH_KEYS:
            config.pop(key, None)


def shape_builder(model: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], ModelConfig]:
    """A function of the settings of a point, which builds the shape without composing anything.

    Args:
        model: the node `model` that all trials share.
    """
    target: Any = get_object(model["_target_"])
    shared = {key: value for key, value in model.items() if key != "_target_"}
    return lambda settings: target(**{**shared, **settings_under(settings, MODEL)})


def saved_model_builder(run: DictConfig) -> Callable[[Mapping[str, Any]], ModelConfig]:
    """A function of the settings of a point, which builds the configuration of the saved model.

    That is the shape, with packed matrices if the trials are trained for a number format.

    Args:
        run: the configuration that all trials share.

    Raises:
        ValueError: the trials are compressed in another way, so that the size of their models is
            only known when they are trained.
    """
    shape, node = shape_builder(plain_config(run.model)), plain_config(run.compression)
    if not node:
        return shape
    recipe, _ = make_recipe(node)
    if not isinstance(recipe, QuantizationRecipe):
        raise CommandError(
            f"compression._target_={node['_target_']} makes models whose costs are known only "
            "after training; search with compression=none or compression=qat"
        )

    def build(settings: Mapping[str, Any]) -> ModelConfig:
        quantized = replace(recipe, **settings_under(settings, COMPRESSION))
        return quantized.quantized_config(shape(settings))

    return build


def settings_under(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The settings of one node, by name in it."""
    return {
        key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)
    }


def check_names(space: SearchSpace, run: DictConfig) -> None:
    """Check that every searched setting exists, and that its values are of the right kind.

    Raises:
        ValueError: a setting does not exist, or a range is given for one that takes no numbers.
    """
    known = flat_config(OmegaConf.to_container(run, resolve=True))
    for parameter in space.parameters:
        name, domain = parameter.name, parameter.domain
        if name not in known:
            raise CommandError(
                f"search_space has {name}, which is not a setting of a run with this model; "
                f"nearest: {listed(nearest(name, known, count=5))}"
            )
        value = known[name]
        is_text = isinstance(value, str | bool)
        if isinstance(domain, Span) and is_text:
            raise CommandError(
                f"search_space.{name} is a range, but {name}={value} is not a number; give choices"
            )
        if isinstance(domain, Span) and name.startswith(MODEL) and domain.low <= 0:
            raise CommandError(f"search_space.{name}.low={domain.low} must be above 0")
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(domain, Span) and is_whole and not domain.is_whole:
            raise CommandError(
                f"search_space.{name} has low={domain.low} and high={domain.high}, but {name} "
                "takes whole numbers; leave out the decimal points"
            )
        if isinstance(domain, Choices) and parameter.per_block and is_text:
            raise CommandError(f"search_space.{name}: {name} takes no value per block")


def _check_objectives(run: DictConfig, settings: StudySettings) -> None:
    """Check that trials can have a number for each objective.

    Raises:
        ValueError: an objective is neither a cost of the shape nor an entry of summary.json.
    """
    known = {*COSTS, *entries_with_numbers()}
    nodes = [*(run.callbacks or {}).values(), run.distillation, run.adapter]
    if any(_reports_entries(node) for node in nodes if node):
        return
    for objective in settings.parsed_objectives:
        if objective.name.split(".")[0] not in known:
            raise CommandError(
                f"search.objectives has {objective.name}, which no trial reports; use a cost of "
                f"the shape ({listed(list(COSTS))}) or a number of summary.json, such as "
                f"{listed(LOSSES)}"
            )


def _reports_entries(node: DictConfig) -> bool:
    """Whether a callback may add numbers to summary.json, under names of its own."""
    try:
        callback: Any = get_object(node["_target_"])
    except Exception:
        return True  # a trial that is composed says what is wrong with it
    return hasattr(callback, "summary") and callback is not LossGuardCallback


def _check_losses(space: SearchSpace, settings: StudySettings) -> None:
    """Refuse to rank losses per token of different vocabularies.

    Raises:
        ValueError: the vocabulary is searched, and the loss is in nats per token.
    """
    if "model.vocab_size" in space.names and "val_loss" in settings.objectives:
        raise CommandError(
            "search_space varies model.vocab_size, but val_loss is in nats per token, which differ "
            f"between vocabularies; use search.objectives=[{LOSSES[1]}]"
        )


def _check_budget(run: DictConfig, settings: StudySettings) -> None:
    """Check that trials can be compared while they train.

    Raises:
        ValueError: trials end early, and their number of tokens is not the same.
    """
    if settings.pruning_rule is None:
        return
    others = [
        key for key in (*DERIVED_LIMITS, EPOCHS, "max_steps", "max_seconds", "horizons")
        if run.get(key) is not None
    ]  # fmt: skip
    if run.max_tokens is None or others:
        raise CommandError(
            f"search.pruning.rule={settings.pruning_rule.rule} compares trials at equal tokens; "
            f"give max_tokens{f', and leave out {others[0]}' if others else ''}"
        )


def _constraints(settings: StudySettings) -> dict[str, Any]:
    """The limits and what they depend on; a profile counts by its content."""
    limits = settings.limits
    given = {
        key: value for key, value in settings.constraints.items()
        if value is not None and key not in ("latency_profile", "latency_device")
    }  # fmt: skip
    if limits.latency_profile is not None:
        given["latency_profile"] = limits.latency.profile.content_hash
    return given


def _plain(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return dict(plain or {})
