"""Points of success against layers for one training seed: dials found on ``tune``, results measured on ``test``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dyslctl import methods
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import NONE, Found, find_layers
from dyslctl.jobs.closed_loop import ClosedLoop, Stage
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.summary import BASELINE
from dyslctl.method_assets import Dial


@dataclass(frozen=True)
class Setting:
    """How a method is set for one point of its curve.

    Attributes:
        label: What the point stands for, equal over seeds: the budget, or ``like dysl at 6``; empty if the method has
            only one point.
        budget: Layers asked for; ``None`` if the method has only one point.
        dial: Of a method with a dial.
        target_layers: Of a method whose layers follow from a formula.
        found: How ``dial`` was found on the tune episodes.
    """

    method: str
    label: str = ""
    budget: float | None = None
    dial: float | None = None
    target_layers: float | None = None
    found: Found | None = field(default=None, repr=False)

    @property
    def folder(self) -> str:
        """Where its episodes are kept; equal settings share them."""
        if self.dial is not None:
            return f"{self.method}/dial_{self.dial:g}"
        return self.method if self.target_layers is None else f"{self.method}/target_{self.target_layers:.4f}"


@dataclass(frozen=True)
class Point:
    """A setting and its test episodes.

    Attributes:
        seed: Of the training and of the method's randomness; ``None``: neither plays a part.
    """

    seed: int | None
    setting: Setting
    records: Sequence[EpisodeRecord] = field(repr=False)


@dataclass(frozen=True)
class Splits:
    """The episodes to choose dials on, and those to report on.

    Raises:
        ConfigError: If they share an initial state.
    """

    tune: Stage
    test: Stage

    def __post_init__(self) -> None:
        splits = [{spec.split for spec in stage.specs} for stage in (self.tune, self.test)]
        shared = {spec.seed for spec in self.tune.specs} & {spec.seed for spec in self.test.specs}
        if splits[0] & splits[1] or shared:
            raise ConfigError(
                f"expected other initial states to report on than to choose dials on, found splits {splits[0]} and "
                f"{splits[1]} with {len(shared)} seeds in common"
            )


def curves(
    names: Sequence[str], recipe: PolicyRecipe, budgets: Sequence[float], splits: Splits, seed: int
) -> list[Point]:
    """One seed's points of every method but the full model.

    Args:
        names: The first is the one that the others are compared with: methods that can be set to any number of layers
            without a search are set to those that it came to, in the place of the budgets.
        recipe: Of this seed's policies.
        budgets: Layers asked for.
        splits: Where dials are found, and where the results are from.
        seed: This seed.

    Raises:
        ConfigError: If a method lacks what it needs, or cannot run so few layers.
    """
    _check_budgets(names, recipe, budgets)
    dials = {name: dial for name in names if (dial := methods.method(name).dial) is not None}
    searched = {name: _search(name, dial, recipe, budgets, splits.tune) for name, dial in dials.items()}
    reached = searched.get(names[0], [])
    points = []
    for name in names:
        for setting in searched.get(name) or _follow(name, budgets, reached):
            points.append(measure_point(setting, recipe, splits.test, seed))
    return points


def _check_budgets(names: Sequence[str], recipe: PolicyRecipe, budgets: Sequence[float]) -> None:
    """Hours before they would fail: policies for the budgets that are only a formula away."""
    for name in names:
        for budget in budgets if methods.needs_target(name) else ():
            replace(recipe, target_layers=budget).factory(name)()


def measure_point(setting: Setting, recipe: PolicyRecipe, stage: Stage, seed: int | None) -> Point:
    """Play the episodes of ``stage`` with ``setting``, or take those that are there already."""
    how = replace(recipe, dial=setting.dial, target_layers=setting.target_layers)
    return Point(seed, setting, stage.play(setting.method, how, setting.folder).records)


def full_model(recipe: PolicyRecipe, stage: Stage) -> Point:
    """The one point of the full model."""
    return measure_point(Setting(BASELINE), recipe, stage, None)


def _search(name: str, dial: Dial, recipe: PolicyRecipe, budgets: Sequence[float], tune: Stage) -> list[Setting]:
    """A setting for each budget; each search begins with what the earlier ones have tried."""
    loop, known, settings = ClosedLoop(name, recipe, tune), NONE, list[Setting]()
    for budget in budgets:
        found = find_layers(loop, (dial.low, dial.high), budget, known)
        known = found.tried
        settings.append(Setting(name, f"{budget:g}", budget, found.dial, found=found))
    return settings


def _follow(name: str, budgets: Sequence[float], reached: Sequence[Setting]) -> list[Setting]:
    """The settings of a method that needs no search."""
    if not methods.needs_target(name):
        return [Setting(name)]
    asked = [Setting(name, f"{budget:g}", budget, target_layers=budget) for budget in budgets]
    like = [
        Setting(name, f"like {other.method} at {other.label}", other.budget, target_layers=other.found.outcome.layers)
        for other in reached
        if other.found is not None
    ]
    return asked if methods.method(name).in_steps or not like else like
