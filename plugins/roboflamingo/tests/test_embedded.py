"""The checkpoint that ships with the plugin: whole, small, a backbone by the contract, and doing what it is told.

How it acts in CALVIN's simulator is tested there: ``plugins/calvin/tests/test_real.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dyslctl_roboflamingo import RoboFlamingo, backbone

from dyslctl.errors import ArtifactError
from dyslctl.jobs.behaviour import TOLERANCE, deviation
from dyslctl.plugins import load_suite
from dyslctl.policy import full_policy
from dyslctl.testing import check_backbone
from dyslctl.types import Observation

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def embedded() -> RoboFlamingo:
    return RoboFlamingo.load(RoboFlamingo.default_checkpoint())


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    suite = load_suite("tabletop_object")
    environment = suite.make()
    return [environment.reset(spec) for spec in suite.episodes("tune", 3)]


def test_it_is_small_and_deep_enough_to_skip_in(embedded: RoboFlamingo) -> None:
    folder = RoboFlamingo.default_checkpoint()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25 * MEGABYTE
    assert embedded.spec.num_layers >= 12
    assert deviation(folder, embedded) < TOLERANCE


def test_it_keeps_the_backbone_contract(embedded: RoboFlamingo, observations: list[Observation]) -> None:
    assert not check_backbone(embedded, observations).failures


def test_it_does_what_it_is_told(embedded: RoboFlamingo, observations: list[Observation]) -> None:
    """The same picture, another instruction: other actions."""
    policy, said = full_policy(embedded, 1), []
    for words in ("pull the handle to open the drawer", "push the sliding door to the left side"):
        policy.reset()
        said.append(policy.select_action(Observation(observations[0].images, words, observations[0].proprio)).actions)
    assert np.abs(said[0] - said[1]).max() > 0.1


def test_it_has_the_suite_that_it_was_trained_on() -> None:
    assert RoboFlamingo.suite_of(str(RoboFlamingo.default_checkpoint())) == "calvin_d_fixtures"
    assert RoboFlamingo.suite_of("checkpoints/roboflamingo-3b") == "calvin_d"


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "DEFAULT", tmp_path / "mini")
    with pytest.raises(ArtifactError, match=r"embedded checkpoint .* is missing") as found:
        RoboFlamingo.default_checkpoint()
    assert "reinstall dyslctl-roboflamingo" in str(found.value.hint)
