from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from dyslctl.analysis.allow_points import trace
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ConfigError
from dyslctl.policy import full_policy

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


def test_the_points_are_those_that_each_inference_had(backbone: TinyBackbone, suite: TinyReach) -> None:
    modules = SkipModules(LayerPartition(8, (0, 4, 7)), SkipSizes.mini(16)).eval()
    policy = DySLPolicy(backbone, modules, GuidanceSettings(eta_1=-1e-6, eta_2=0.0, tau=0.0), 2)
    found = trace(policy, suite, suite.episodes("test", 1)[0])
    assert found.segments == ((1, 2, 3), (5, 6)) and found.eta_1 == -1e-6
    assert len(found.frames) == len(found.moments) and found.frames[0].shape == (8, 8, 3)
    first, second, third, fourth = found.moments[:4]
    assert (first.points, first.jumps, first.delta, first.step, first.stop) == ((0, 0), 2, None, 0, 2)
    assert (second.step, second.points) == (2, (0, 0)), "no point moves before delta C is known"
    assert third.continuity is not None and third.delta is None
    assert fourth.delta is not None
    fell = [moment.delta is not None and moment.delta < -1e-6 for moment in found.moments[:-1]]
    pairs = pairwise(moment.points for moment in found.moments)
    grew = [after > before or after == (3, 2) for before, after in pairs]
    assert any(fell) and all(moved for fall, moved in zip(fell, grew, strict=True) if fall)
    assert sum(moment.executed for moment in found.moments) == found.steps
    assert found.instruction


def test_points_that_nobody_obeys_are_not_shown(backbone: TinyBackbone, suite: TinyReach) -> None:
    modules = SkipModules(LayerPartition(8, (0, 4, 7)), SkipSizes.mini(16)).eval()
    policy = DySLPolicy(backbone, modules, GuidanceSettings(-1e-6, 0.0, tau=0.0), 2, pre_skip=False)
    with pytest.raises(ConfigError, match="skipping-allow points"):
        trace(policy, suite, suite.episodes("test", 1)[0])


def test_other_policies_have_no_points(backbone: TinyBackbone, suite: TinyReach) -> None:
    with pytest.raises(ConfigError, match="skipping-allow points"):
        trace(full_policy(backbone, 2), suite, suite.episodes("test", 1)[0])
