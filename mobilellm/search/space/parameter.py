"""One searched setting: its domain, and when it applies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm.search.space.domains import Choices, Domain, Span, Value

RANGE_KEYS = ("low", "high", "step", "log")
KEYS = ("choices", *RANGE_KEYS, "per_block", "largest_that_fits", "when")


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    Raises:
        ValueError: options that exclude each other.
    """

    name: str
    """Dotted key of the configuration, such as `model.num_blocks`."""
    domain: Domain
    per_block: bool = False
    """Whether every block has a value of its own; the setting is then a list."""
    largest_that_fits: bool = False
    """Whether the setting is not searched, but is the largest value that meets the constraints."""
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """The setting is searched only if each of these parameters has one of its values."""

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.largest_that_fits:
            return
        if self.per_block:
            raise ValueError(
                f"{self.name}: per_block and largest_that_fits exclude each other; one largest "
                "value does not determine several"
            )
        if not isinstance(self.domain, Span) or self.domain.values is None:
            raise ValueError(
                f"{self.name}: largest_that_fits needs low, high and step, in whole numbers"
            )

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Whether the setting is searched at a point."""
        return all(
            name in values and _is_one_of(values[name], allowed)
            for name, allowed in self.when.items()
        )

    def entries(self, num_blocks: int) -> list[str]:
        """Names of its values: its own name, or one name per block."""
        if not self.per_block:
            return [self.name]
        return [f"{self.name}[{index}]" for index in range(num_blocks)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in a YAML file."""
        flags = {name: True for name in ("per_block", "largest_that_fits") if getattr(self, name)}
        when = {name: list(allowed) for name, allowed in self.when.items()}
        return {**self.domain.to_dict(), **flags, **({"when": when} if when else {})}


def is_parameter(node: object) -> bool:
    """Whether a node of a space describes one setting, and not a group of settings."""
    return not isinstance(node, Mapping) or any(key in KEYS for key in node)


def parse_parameter(name: str, node: Any) -> Parameter:
    """Read the node of one setting: a list of choices, or a mapping.

    Raises:
        ValueError: the node is not valid; the message names the setting and the remedy.
    """
    if isinstance(node, Sequence) and not isinstance(node, str):
        node = {"choices": node}
    if not isinstance(node, Mapping):
        raise ValueError(
            f"{name}={node!r} is neither a list of choices, such as [2, 4, 8], nor a range, such "
            "as {low: 2, high: 8, step: 2}; give a fixed value on the command line instead"
        )
    unknown = [key for key in node if key not in KEYS]
    if unknown:
        raise ValueError(f"{name}.{unknown[0]} is not known; use {', '.join(KEYS)}")
    for flag in ("per_block", "largest_that_fits"):
        if not isinstance(node.get(flag, False), bool):
            raise ValueError(f"{name}.{flag}={node[flag]!r} must be true or false")
    return Parameter(
        name=name,
        domain=_domain(name, node),
        per_block=node.get("per_block", False),
        largest_that_fits=node.get("largest_that_fits", False),
        when=_conditions(name, node.get("when") or {}),
    )


def _domain(name: str, node: Mapping[str, Any]) -> Domain:
    given = [key for key in RANGE_KEYS if key in node]
    if "choices" in node and given:
        raise ValueError(
            f"{name} has choices and {given[0]}; use choices for a list of values, or low, high "
            "and step for a range of numbers"
        )
    try:
        if "choices" in node:
            options = node["choices"]
            if not isinstance(options, Sequence) or isinstance(options, str):
                raise ValueError(f"choices={options!r} must be a list, such as [2, 4, 8]")
            return Choices(tuple(options))
        for key in ("low", "high"):
            if key not in node:
                raise ValueError(
                    f"{key} is missing; a range needs low and high, and a list of values is given "
                    "as choices=[…]"
                )
        return Span(node["low"], node["high"], node.get("step"), node.get("log", False))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _conditions(name: str, node: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(node, Mapping):
        raise ValueError(
            f"{name}.when={node!r} must name other parameters and their values, such as "
            "{model.layer_sharing: [immediate]}"
        )
    found = {}
    for other, allowed in _flat(node):
        is_list = isinstance(allowed, Sequence) and not isinstance(allowed, str)
        found[other] = tuple(allowed) if is_list else (allowed,)
    return found


def _flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values; `{model: {num_blocks: 2}}` and `{model.num_blocks: 2}` are equal."""
    found = []
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        found += _flat(value, name) if isinstance(value, Mapping) else [(name, value)]
    return found


def _is_one_of(value: Value, allowed: tuple[Value, ...]) -> bool:
    return any(value == other and isinstance(value, bool) == isinstance(other, bool)
               for other in allowed)  # fmt: skip
