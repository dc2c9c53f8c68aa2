"""Every key of every file under conf/, and the checks that a command makes before it reads data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from tiny_tokenizers import make_byte_level

from mobilellm.hydra_app.configuration import compose, config_loader, instantiate, load

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("model", "data", "optimizer", "schedule", "parametrization", "compression",
          "distillation", "adapter", "callbacks", "trainer", "logger")  # fmt: skip
ROOTS = ("train", "explain", "coordinate_check", "compress", "extract", "prepare_data",
         "prepare_logits")  # fmt: skip
# Methods of compression that pack weights.
PACKS = ("quantize", "gptq", "awq")
# Not settings: what is built, and how.
SKIPPED = ("_target_", "_partial_", "defaults")

# Of a key that takes any text the wrong type is a mapping, of others text.
NO_TEXT, TEXT = {"no": "such thing"}, "no such word"
PROBES: dict[str, Any] = {
    "wrong type": TEXT,
    "negative": -1,
    "zero": 0,
    "NaN": float("nan"),
    "huge": 10**30,
}


@dataclass(frozen=True)
class Case:
    """One key, and what checks it."""

    file: str
    """Of conf/, without `.yaml`."""
    key: str
    """As on the command line."""
    owner: str
    """What takes the value: the same key of the same owner is checked once."""
    config: DictConfig
    check: Callable[[DictConfig], Any]
    """Raises where a value is refused; what it returns is the checked configuration."""

    def outcome(self, value: Any) -> tuple[str | None, Any]:
        """Why the value is refused, None where it is accepted; and what the check gave."""
        from mobilellm.hydra_app.errors import describe_configuration_error

        config = OmegaConf.create(self.config)
        try:
            OmegaConf.update(config, self.key, value, merge=False)
            return None, self.check(config)
        except Exception as error:
            message = describe_configuration_error(error)
            if message is None:
                raise
            return message, None


def keys_of(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys of all values with their owner: the nearest `_target_` and the path below it."""

    def walk(part: Any, path: str, owner: str, below: str) -> Iterator[tuple[str, str]]:
        if isinstance(part, DictConfig) and part._content and not part._is_none():
            target = part.get("_target_")
            if target is not None:
                owner, below = str(target), ""
            for name in part:
                if name not in SKIPPED:
                    dotted = f"{path}.{name}" if path else str(name)
                    yield from walk(part._get_node(name), dotted, owner, f"{below}.{name}")
            return
        if isinstance(part, ListConfig) and len(part) and isinstance(part[0], DictConfig):
            yield from walk(part[0], f"{path}[0]", owner, f"{below}[0]")
        yield path, _declared(owner, below)

    yield from walk(node, prefix, "", "")


def _declared(target: str, below: str) -> str:
    """The field of the class that declares it: a base's is checked the same in all its heirs."""
    if not target:
        return below
    from hydra.utils import get_object

    built, name = get_object(target), below.partition(".")[2].partition(".")[0].partition("[")[0]
    for base in getattr(built, "__mro__", ()):
        if name in vars(base).get("__annotations__", {}):
            return f"{base.__qualname__}{below}"
    return f"{target}{below}"


def choices(group: str) -> list[str]:
    """Files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def train_base(folder: Path) -> list[str]:
    """Overrides of a run that passes all checks."""
    return ["model=debug", "trainer=cpu", "callbacks=none", f"output_dir={folder}/outputs"]


def needed(group: str, choice: str, folder: Path) -> list[str]:
    """What a choice needs beside itself."""
    if group == "data":
        (folder / "a.txt").write_text("some text\n", encoding="utf-8")
        template = "{{ messages[0]['content'] + eos_token }}"
        chat = f"data.tokenizer={make_byte_level(folder, template=template)}"
        # A loss on pairs, whose reference is any model.
        pairs = [chat, "distillation=dpo", f"distillation.teacher={folder}/teacher"]
        return {
            "conversations": [chat, f"data.train={folder}/a.txt"],
            "conversations_hub": [chat, "data.dataset_name=owner/name"],
            "preferences": [*pairs, f"data.train={folder}/a.txt"],
            "preferences_hub": [*pairs, "data.dataset_name=owner/name"],
            "hub": ["data.dataset_name=owner/name"],
            "rationales_hub": ["data.dataset_name=owner/name"],
            "mixture": [f"data.sources.text.train={folder}/a.txt"],
        }.get(choice, [f"data.train={folder}/a.txt"])
    if group == "adapter" and choice != "none":
        rounded = ["adapter.quantized.group=8"] if choice == "qlora" else []
        ids = ["data=tokenized_jsonl", f"data.train={folder}/a.txt"]
        return [f"init_from={folder}/teacher", "adapter.rank=2", *ids, *rounded]
    # The width of the model is 8.
    small = {("compression", method): ["compression.group=8"] for method in (*PACKS, "qat")}
    small["distillation", "supernet"] = ["distillation.space.intermediate_size=[8,16]"]
    if (group, choice) in small:
        return small[group, choice]
    if group == "distillation" and choice not in ("none", "step_by_step"):
        from_dense = "dense" in (CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")
        if from_dense and choice in ("kngpt2", "minitron", "tqcompressor"):
            return ["compression=magnitude"]
        ids = ["data=tokenized_jsonl", f"data.train={folder}/a.txt"]
        if choice == "dpo":
            ids = [*needed("data", "preferences", folder), "data=preferences"]
        return [*ids, f"distillation.teacher={folder}/teacher"]
    return []


def _check_of(group: str, choice: str) -> Callable[[DictConfig], Any]:
    """What `plan_run` calls for a group; where that is one call, it alone, which is quicker."""
    from mobilellm.pipeline.plan import plan_run

    if group == "compression" and choice in PACKS:
        return _check_recipe
    is_alone = group in ("model", "data", "trainer")
    return (lambda config: instantiate(config[group])) if is_alone else plan_run


def _check_recipe(config: DictConfig) -> None:
    """What `compress` calls for a method that training refuses, because it packs weights."""
    import torch

    from mobilellm.models import MobileLLM
    from mobilellm.pipeline.recipe import make_recipe

    recipe, _ = make_recipe(OmegaConf.to_container(config.compression, resolve=True))
    with torch.device("meta"):
        recipe.check(MobileLLM(instantiate(config.model)))


def group_cases(folder: Path) -> Iterator[Case]:
    """Keys of all files of the groups, as part of a run."""
    for group in GROUPS:
        known: set[str] = set()
        for choice in choices(group):
            written = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text("utf-8")) or {}
            keys = sorted(written_keys(CONF / group / f"{choice}.yaml"))
            signature = repr((written.get("_target_"), keys))
            if "_target_" in written and signature in known:
                continue
            known.add(signature)
            is_fixed = "train: ???" not in (CONF / group / f"{choice}.yaml").read_text("utf-8")
            needs = needed(group, choice, folder)
            if group == "data" and is_fixed and "train" in "".join(needs).partition("=")[0]:
                needs = []
            config = compose("train", [*train_base(folder), f"{group}={choice}", *needs])
            for key, owner in keys_of(config[group], group):
                yield Case(f"{group}/{choice}", key, owner, config, _check_of(group, choice))


def root_cases(folder: Path) -> Iterator[Case]:
    """Keys at the root of the files that commands begin with."""
    from mobilellm.hydra_app.root_keys import checked_config
    from mobilellm.pipeline.coordinate_check import plan_check
    from mobilellm.pipeline.explain import explain_config
    from mobilellm.pipeline.plan import plan_run
    from mobilellm.pipeline.prepare_logits import check_options
    from mobilellm.pipeline.search.setup import read_search

    checks: dict[str, Callable[[DictConfig], Any]] = {
        "train": plan_run,
        "explain": explain_config,
        "coordinate_check": plan_check,
        "compress": lambda c: checked_config("compress", c),
        "extract": lambda c: checked_config("extract", c),
        "prepare_data": lambda c: checked_config("prepare_data", c),
        "prepare_logits": lambda c: check_options(c, folder / "teacher"),
    }
    overrides = {"train": train_base(folder), "explain": ["model=debug", "trainer=cpu"],
                 "coordinate_check": [f"out={folder}/check"]}  # fmt: skip
    needs = {"per_layer": ["model=tiny_deep"],
             "largest_width": ["search.constraints.max_body=1e6"]}  # fmt: skip
    for choice in choices("search_space"):
        # In this order, because the base chooses a model.
        given = [*train_base(folder)[1:], f"search_space={choice}", *needs.get(choice, [])]
        config = compose("search", given)
        for key, owner in keys_of(config.search_space, "search_space"):
            yield Case(f"search_space/{choice}", key, f"{choice}.{owner}", config, read_search)
        if choice == "depth_and_width":
            for key, _ in keys_of(config.search, "search"):
                yield Case("search", key, f"search.{key}", config, read_search)
    for root in ROOTS:
        config = compose(root, overrides.get(root, []))
        for key, owner in keys_of(config):
            if key.partition(".")[0] not in GROUPS:
                yield Case(
                    root, key, owner if "." in owner else f"{root}.{key}", config, checks[root]
                )


def launcher_cases() -> Iterator[Case]:
    """Keys of hydra/launcher."""
    from hydra.types import RunMode

    from mobilellm.launchers.slurm.settings import SlurmSettings

    def plain(config: DictConfig) -> dict[str, Any]:
        values: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        return {key: value for key, value in values.items() if key not in SKIPPED}

    checks = {
        "local": lambda c: instantiate(c.hydra.launcher),
        "slurm": lambda c: SlurmSettings(**plain(c)),
    }
    for name, check in checks.items():
        with config_loader() as loader:
            config = load(loader, "train", [f"hydra/launcher={name}"], RunMode.MULTIRUN)
        for key, owner in keys_of(config.hydra.launcher, "hydra.launcher"):
            yield Case(f"hydra/launcher/{name}", key, owner, config, check)


def all_cases(folder: Path) -> tuple[dict[str, Case], set[str]]:
    """All keys by owner, each owner's once; and the names of all keys that were met."""
    found: dict[str, Case] = {}
    keys = set()
    for case in (*root_cases(folder), *group_cases(folder), *launcher_cases()):
        found.setdefault(case.owner, case)
        keys.add(case.key)
    return found, keys


def written_keys(path: Path) -> Iterator[str]:
    """Dotted keys of a YAML file as it stands."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        if not isinstance(node, Mapping) or not node:
            yield prefix
            return
        for name, value in node.items():
            if name not in SKIPPED:
                yield from walk(value, f"{prefix}.{name}" if prefix else str(name))

    yield from walk(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, "")
