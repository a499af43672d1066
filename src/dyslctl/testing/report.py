"""Checks as values: a rule, what was found against it, and how to put it right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dyslctl.errors import PluginError

Subject = TypeVar("Subject")
Findings = Iterator[str]
"""What a check yields: one sentence for each way the rule is broken, nothing if it holds."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One rule of a contract.

    Attributes:
        rule: Looks for what breaks the rule that its docstring states. An exception it lets through is a finding.
        fix: What a plugin author changes when the rule is broken.
    """

    rule: Callable[[Subject], Findings]
    fix: str

    def apply(self, subject: Subject) -> CheckResult:
        """Run the check to its end, or to its first exception."""
        problems: list[str] = []
        try:
            problems.extend(self.rule(subject))
        except Exception as error:
            problems.append(f"raised {type(error).__name__}: {error}")
        return CheckResult((self.rule.__doc__ or self.rule.__name__).strip().rstrip("."), tuple(problems), self.fix)


@dataclass(frozen=True)
class CheckResult:
    """How one rule fared. ``problems`` is empty if it holds."""

    name: str
    problems: tuple[str, ...]
    fix: str

    @property
    def ok(self) -> bool:
        """Whether nothing was found against the rule."""
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            return f"ok    {self.name}"
        return "\n".join(
            [f"FAIL  {self.name}", *(f"      {problem}" for problem in self.problems), f"      fix: {self.fix}"]
        )


@dataclass(frozen=True)
class CheckReport:
    """Every rule of one contract, for one plugin."""

    subject: str
    results: tuple[CheckResult, ...]

    @classmethod
    def of(cls, name: str, subject: Subject, checks: Sequence[Check[Subject]]) -> CheckReport:
        """Apply all ``checks``; one that fails stops none of the others."""
        return cls(name, tuple(check.apply(subject) for check in checks))

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The broken rules."""
        return tuple(result for result in self.results if not result.ok)

    def require(self) -> CheckReport:
        """This report, if every rule holds.

        Raises:
            PluginError: Listing every broken rule at once.
        """
        if self.failures:
            listing = "\n".join(str(result) for result in self.failures)
            raise PluginError(
                f"{self.subject} breaks {len(self.failures)} of {len(self.results)} rules of its contract:\n{listing}",
                hint="the contract is the docstrings of dyslctl.backbone and dyslctl.suite",
            )
        return self

    def __str__(self) -> str:
        return "\n".join([self.subject, *(str(result) for result in self.results)])
