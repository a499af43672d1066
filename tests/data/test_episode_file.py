from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dyslctl.data.encoding import PNG
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.images import decode_image
from dyslctl.data.mapping import DataMap, Gripper
from dyslctl.errors import ArtifactError, PluginError
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.tiny import TinyReach

SPEC = EpisodeSpec("tiny_reach", "train", 4, "reach_red", 4)
ALL = DataMap(action="action", gripper=Gripper(open=-1.0, closed=1.0))
MOVING = ALL.model_copy(update={"noop_threshold": 1e-4})


def demonstration(actions: list[list[float]], proprio: bool = True) -> Demonstration:
    """Step ``k`` sees an image of level ``k`` and feels ``[k, k]``."""
    seen = [
        Observation({"agent": np.full((2, 4, 3), k, np.uint8)}, "go", np.full(2, k, np.float32) if proprio else None)
        for k in range(len(actions))
    ]
    return Demonstration(SPEC, seen, np.array(actions), 1)


def test_no_ops_are_dropped_with_what_was_seen_before_them() -> None:
    """Still, moving, still, still but closing, still."""
    shown = demonstration([[0, -1], [0.5, -1], [0, -1], [0, 1], [0, 1]])
    found = RecordedEpisode.of(shown, MOVING, PNG)
    assert (len(found), found.dropped, found.actions.dtype) == (2, 3, np.float32)
    assert found.actions.tolist() == [[0.5, -1], [0, 1]]
    assert found.proprio is not None and found.proprio.tolist() == [[1, 1], [3, 3]]
    assert [int(decode_image(data, "here")[0, 0, 0]) for data in found.images["agent"]] == [1, 3]
    assert found.shapes == {"agent": (2, 4, 3)}
    assert {level: int(n) for level, n in enumerate(found.levels["agent"][0]) if n} == {1: 8, 3: 8}
    assert len(RecordedEpisode.of(shown, ALL, PNG)) == 5


def test_an_expert_that_never_moves_is_refused() -> None:
    with pytest.raises(PluginError, match=r"reach_red: the expert's 2 steps are all no-ops"):
        RecordedEpisode.of(demonstration([[0, -1], [0, -1]]), MOVING, PNG)


def test_views_must_not_change_on_the_way() -> None:
    shown = demonstration([[1, -1], [1, -1]])
    other = replace(shown.observations[1], images={"wrist": np.zeros((2, 4, 3), np.uint8)})
    with pytest.raises(PluginError, match=r"expected views \{'agent': \(2, 4, 3\)\} throughout, found \{'wrist'"):
        RecordedEpisode.of(replace(shown, observations=[shown.observations[0], other]), ALL, PNG)


@pytest.mark.parametrize("proprio", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, proprio: bool) -> None:
    episode = RecordedEpisode.of(demonstration([[0.1, -1], [0.2, 1]], proprio), ALL, PNG)
    episode.save(tmp_path / "one.parquet")
    found = RecordedEpisode.load(tmp_path / "one.parquet")
    assert (found.spec, found.dropped, found.instructions) == (SPEC, 0, ["go", "go"])
    assert (found.images, found.shapes) == (episode.images, episode.shapes)
    np.testing.assert_array_equal(found.actions, episode.actions)
    np.testing.assert_array_equal(found.levels["agent"], episode.levels["agent"])
    assert (found.proprio is None) is not proprio


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"one\.parquet"):
        RecordedEpisode.load(tmp_path / "one.parquet")


def test_a_suites_own_demonstration(tiny_suite: type[TinyReach]) -> None:
    shown = tiny_suite().demonstrate(tiny_suite().episodes("train", 1)[0])
    assert len(RecordedEpisode.of(shown, MOVING, PNG)) == len(shown.actions)
