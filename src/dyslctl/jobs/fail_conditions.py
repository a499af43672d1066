"""Conditions that fail a CI job: ``--fail-if 'dysl.success_rate < 0.9'``.

Grammar: ``PATH OPERATOR NUMBER``. A path is keys joined by dots; no part of a condition is ever evaluated as code.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyslctl.errors import ConfigError, ThresholdNotMet
from dyslctl.plugins import did_you_mean

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
# Method names hold - and + ("dysl+specprune"), list positions are plain numbers ("rows.0.speedup").
_CONDITION = re.compile(r"\s*(?P<path>[\w+-]+(?:\.[\w+-]+)*)\s*(?P<operator><=|>=|==|!=|<|>)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """One parsed condition; it *holds* when the result is not good enough."""

    path: str
    operator: str
    limit: float

    def __str__(self) -> str:
        return f"{self.path} {self.operator} {self.limit:g}"

    def holds(self, value: float) -> bool:
        """Does ``value`` fulfil the condition?"""
        return OPERATORS[self.operator](value, self.limit)


def parse_condition(text: str) -> Condition:
    """Parse ``text``.

    Raises:
        ConfigError: If it is not ``PATH OPERATOR NUMBER``.
    """
    match = _CONDITION.fullmatch(text)
    limit = _number(match["limit"]) if match else None
    if match is None or limit is None:
        raise ConfigError(
            f"--fail-if: expected PATH OPERATOR NUMBER, found {text!r}",
            hint="for example --fail-if 'dysl.success_rate < 0.9'",
        )
    return Condition(match["path"], match["operator"], limit)


def check_paths(conditions: Sequence[str], coming: Mapping[str, Collection[str]]) -> None:
    """Before the work begins: does every one of ``conditions`` parse, and speak of what the result will have?

    Args:
        conditions: As the user gave them.
        coming: What the result will have at its top, with the keys below; no keys: any.

    Raises:
        ConfigError: If one does not.
    """
    for condition in map(parse_condition, conditions):
        name, _, rest = condition.path.partition(".")
        if name not in coming:
            raise ConfigError(
                f"--fail-if: '{name}' will not be measured.{did_you_mean(name, list(coming))}\n"
                f"  measured: {', '.join(coming)}",
                hint="add it to --method",
            )
        if coming[name] and rest.partition(".")[0] not in coming[name]:
            raise _no_number(condition.path, [f"{name}.{key}" for key in coming[name]])


def look_up(results: Mapping[str, Any], path: str) -> float:
    """The number at the dotted ``path`` of nested mappings and lists.

    Raises:
        ConfigError: If there is no number; names the nearest paths.
    """
    numbers = dict(_numbers(results))
    if path not in numbers:
        raise _no_number(path, sorted(numbers))
    return numbers[path]


def _no_number(path: str, known: list[str]) -> ConfigError:
    near = [name for name in known if name.rpartition(".")[0] == path.rpartition(".")[0]] or known
    return ConfigError(
        f"--fail-if: the result has no number '{path}'.{did_you_mean(path, known)}\n  near: {', '.join(near[:12])}",
        hint="--json shows every key",
    )


def check_conditions(conditions: Sequence[str], results: Mapping[str, Any], where: str = "") -> None:
    """Fail if any of ``conditions`` holds for ``results``; the message says ``where``.

    A number that could not be measured, ``null`` in the result, is not good enough either: a policy of which every
    episode crashed has no success rate.

    Raises:
        ConfigError: If a condition does not parse or names no number of the result.
        ThresholdNotMet: If any holds; lists all that do.
    """
    parsed, missing = [parse_condition(text) for text in conditions], set(_missing(results))
    broken = [f"  {condition} (found none)" for condition in parsed if condition.path in missing]
    found = [(each, look_up(results, each.path)) for each in parsed if each.path not in missing]
    broken += [f"  {condition} (found {value:g})" for condition, value in found if condition.holds(value)]
    if broken:
        place = f" on {where}" if where else ""
        raise ThresholdNotMet(f"not good enough{place}, a --fail-if condition holds:\n" + "\n".join(broken))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number below ``value``, with its path. Truth values are no numbers; NaN would fulfil nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, float(value)
    for key, inner in _items(value):
        yield from _numbers(inner, f"{path}.{key}" if path else str(key))


def _missing(value: Any, path: str = "") -> Iterator[str]:
    """The path of everything below ``value`` that is ``None``."""
    if value is None:
        yield path
    for key, inner in _items(value):
        yield from _missing(inner, f"{path}.{key}" if path else str(key))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()
