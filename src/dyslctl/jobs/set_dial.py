"""A dial that was found becomes the setting that a bundle runs with."""

from __future__ import annotations

from pathlib import Path

from dyslctl.artifacts.bundle import load_bundle, save_settings
from dyslctl.artifacts.bundle_settings import Calibration
from dyslctl.artifacts.model_card import write_card
from dyslctl.artifacts.skip_profile import Guidance
from dyslctl.jobs.budget import Found
from dyslctl.jobs.closed_loop import Stage
from dyslctl.jobs.statistics import wilson

CLOSED_LOOP, JOINT = "closed loop: ", "; "


def save_dial(bundle: Path, found: Found, stage: Stage, trained_on: str) -> Calibration:
    """Write ``found`` into the settings of ``bundle``, with where it comes from; its weights stay as they are.

    Args:
        bundle: Folder of the bundle that was tried.
        found: Of a search that ran on this bundle.
        stage: The episodes behind it.
        trained_on: The suite that the bundle was trained on, for the model card.

    Raises:
        ArtifactError: If there is no bundle, or it is damaged.
        EnvironmentMismatch: If it cannot be written.
    """
    saved = load_bundle(bundle)
    # A tolerance or a common threshold is replaced; those that an offline calibration gave the guidance still stand.
    offline = saved.calibration if isinstance(saved.settings, Guidance) else None
    calibration = _provenance(found, stage, offline)
    save_settings(bundle, saved.settings.turned(found.dial), calibration)
    write_card(bundle, trained_on)
    return calibration


def _provenance(found: Found, stage: Stage, offline: Calibration | None) -> Calibration:
    """Where the dial comes from, beside what ``offline`` says of the other thresholds."""
    outcome, rule = found.outcome, f"{CLOSED_LOOP}{found.target}"
    low, high = wilson(outcome.successes, outcome.episodes)
    numbers = {
        "dial": found.dial,
        "layers": outcome.layers,
        "success": outcome.successes / outcome.episodes,
        "success_low": low,
        "success_high": high,
    }
    if found.ms is not None:
        numbers["llm_ms"] = found.ms
    if found.drop is not None:
        numbers |= {"drop_pp": found.drop.points, "drop_pp_low": found.drop.low, "drop_pp_high": found.drop.high}
    return Calibration(
        rule=rule if offline is None else f"{offline.rule.partition(JOINT)[0]}{JOINT}{rule}",
        suite=stage.suite.name,
        split=stage.specs[0].split,
        episodes=outcome.episodes,
        numbers=numbers if offline is None else {**offline.numbers, **numbers},
        data_hash=None if offline is None else offline.data_hash,
        execute_horizon=None if offline is None else offline.execute_horizon,
    )
