"""A search space: the settings that are searched, as plain data that is checked when it is read."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm.search.space.domains import Domain, Value
from mobilellm.search.space.parameter import Parameter, is_parameter, parse_parameter

DEPTH = "model.num_blocks"
Point = dict[str, Value]
"""A value for each searched entry: a setting, or `setting[3]` for one block of it."""


@dataclass(frozen=True)
class SearchSpace:
    """The searched settings, in the order in which they are chosen.

    Raises:
        ValueError: there is none, a condition names no earlier parameter or a value that it cannot
            take, or more than one setting is the largest that fits.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        """Check the conditions."""
        if not self.parameters:
            raise ValueError(
                "search_space is empty; choose one with search_space=…, or give settings with "
                "choices or ranges, such as search_space.model.num_blocks=[2,4,8]"
            )
        earlier: dict[str, Parameter] = {}
        for parameter in self.parameters:
            for name, allowed in parameter.when.items():
                self._check_condition(parameter.name, name, allowed, earlier)
            earlier[parameter.name] = parameter
        largest = [p.name for p in self.parameters if p.largest_that_fits]
        if len(largest) > 1:
            raise ValueError(
                f"{' and '.join(largest)} cannot both be the largest that fits; keep one of them"
            )

    def _check_condition(
        self, owner: str, name: str, allowed: tuple[Value, ...], earlier: Mapping[str, Parameter]
    ) -> None:
        other = earlier.get(name)
        if other is None or other.per_block or other.largest_that_fits:
            known = [n for n, p in earlier.items() if not p.per_block and not p.largest_that_fits]
            raise ValueError(
                f"{owner}.when names {name}, which is not a parameter above it in the space; use "
                f"{', '.join(known) or 'a parameter that is listed before it'}"
            )
        values = other.domain.values
        for value in allowed:
            if values is not None and value not in values:
                raise ValueError(
                    f"{owner}.when.{name} has the value {value!r}, which {name} never takes; its "
                    f"values are {_shown(values)}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that are searched or derived."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def largest(self) -> Parameter | None:
        """The setting that is the largest that fits; None if all settings are searched."""
        return next((p for p in self.parameters if p.largest_that_fits), None)

    def choose(self, choose: Callable[[str, Domain], Value], num_blocks: int | None) -> Point:
        """A point, by choosing a value for each entry that applies.

        Args:
            choose: called with the name and the domain of each entry, in order.
            num_blocks: of the configuration, if the depth is not searched.

        Raises:
            ValueError: there is a value per block, but the depth is not known.
        """
        point: Point = {}
        for parameter in self.parameters:
            if parameter.largest_that_fits or not parameter.applies(point):
                continue
            for entry in parameter.entries(self._depth(parameter, point, num_blocks)):
                point[entry] = choose(entry, parameter.domain)
        return point

    def draw(self, generator: random.Random, num_blocks: int | None) -> Point:
        """A random point."""
        return self.choose(lambda _, domain: domain.draw(generator), num_blocks)

    def points(self, num_blocks: int | None) -> Iterator[Point]:
        """All points, in a fixed order, in which the last settings vary fastest.

        Raises:
            ValueError: a domain is continuous.
        """
        for parameter in self.parameters:
            if parameter.domain.values is None:
                raise ValueError(
                    f"{parameter.name} has no finite number of values; give its range a step, or "
                    "choices"
                )
        yield from self._points({}, self.parameters, num_blocks)

    def _points(
        self, point: Point, left: tuple[Parameter, ...], num_blocks: int | None
    ) -> Iterator[Point]:
        if not left:
            yield dict(point)
            return
        parameter, *rest = left
        if parameter.largest_that_fits or not parameter.applies(point):
            yield from self._points(point, tuple(rest), num_blocks)
            return
        entries = parameter.entries(self._depth(parameter, point, num_blocks))
        for values in itertools.product(parameter.domain.values or (), repeat=len(entries)):
            chosen = point | dict(zip(entries, values, strict=True))
            yield from self._points(chosen, tuple(rest), num_blocks)

    @property
    def is_finite(self) -> bool:
        """Whether the number of points is finite."""
        return all(parameter.domain.values is not None for parameter in self.parameters)

    def domains(self, point: Mapping[str, Value]) -> dict[str, Domain]:
        """The domain of each value of a point."""
        found = {parameter.name: parameter.domain for parameter in self.parameters}
        return {entry: found[entry.partition("[")[0]] for entry in point}

    def _depth(self, parameter: Parameter, point: Point, num_blocks: int | None) -> int:
        if not parameter.per_block:
            return 1
        depth = point.get(DEPTH, num_blocks)
        if not isinstance(depth, int):
            raise ValueError(
                f"{parameter.name} has a value per block, but {DEPTH}={depth} is not known; list "
                f"{DEPTH} above it in the space, or give it on the command line"
            )
        return depth

    def to_dict(self) -> dict[str, Any]:
        """Plain data by dotted name; two spaces are equal if their data are."""
        return {parameter.name: parameter.to_dict() for parameter in self.parameters}


def parse_space(node: Mapping[str, Any]) -> SearchSpace:
    """Read a space, which is nested like the configuration, with domains instead of values.

    Args:
        node: plain data. `model: {num_blocks: [2, 4, 8]}` has the parameter `model.num_blocks`.

    Raises:
        ValueError: a node is not valid; the message begins with its key.
    """
    return SearchSpace(tuple(_parameters(node, "")))


def setting_values(point: Mapping[str, Value]) -> dict[str, Any]:
    """The settings of a point: values per block are joined to a list."""
    settings: dict[str, Any] = {}
    for entry, value in point.items():
        name, bracket, _ = entry.partition("[")
        if bracket:
            settings.setdefault(name, []).append(value)
        else:
            settings[name] = value
    return settings


def _parameters(node: Mapping[str, Any], prefix: str) -> Iterator[Parameter]:
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if is_parameter(value):
            yield parse_parameter(name, value)
        else:
            yield from _parameters(value, name)


def _shown(values: Any) -> str:
    shown = [str(value) for value in itertools.islice(values, 12)]
    return ", ".join(shown) + (", …" if len(values) > len(shown) else "")
