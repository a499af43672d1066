from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.data.calvin import CalvinSource, frame_name
from dyslctl.data.calvin_annotations import Annotation, write_annotations
from dyslctl.data.mapping import DataMap
from dyslctl.errors import ArtifactError, ConfigError


def read(root: Path) -> CalvinSource:
    return CalvinSource(root / "training", DataMap.load("calvin"))


def test_every_window_comes_back_as_it_was_recorded(writers: ModuleType, tmp_path: Path) -> None:
    written = [writers.episode(number, 3 + number) for number in range(1, 5)]
    source = read(writers.write_calvin(tmp_path, written))
    assert len(source) == 4
    for number, each in enumerate(written):
        found = source.episode(number)
        np.testing.assert_array_equal(found.actions, each.actions)  # the gripper, too: it opens at 1 here and there
        for step, observation in enumerate(found.observations):
            assert observation.instruction == each.instruction and observation.proprio is not None
            np.testing.assert_array_equal(observation.proprio, each.state[step])
            for view, pictures in zip(("static", "gripper"), each.views.values(), strict=True):
                np.testing.assert_array_equal(observation.images[view], pictures[step])


def test_a_window_is_a_part_of_a_recording(writers: ModuleType, tmp_path: Path) -> None:
    """Frames 7 to 9 of the second recording; the end itself is not seen."""
    written = [writers.episode(1, 5), writers.episode(2, 8)]
    found = read(writers.write_calvin(tmp_path, written, [(0, 5), (7, 10)])).episode(1)
    np.testing.assert_array_equal(found.actions, written[1].actions[2:5])


def test_the_annotations_may_lie_beside_the_frames(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(1, 3), writers.episode(2, 3)])
    (root / "training/lang_annotations/auto_lang_ann.npy").rename(root / "training/auto_lang_ann.npy")
    assert len(read(root)) == 2


@pytest.fixture(scope="module")
def play(writers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 60 frames."""
    root: Path = writers.write_calvin(tmp_path_factory.mktemp("play"), [writers.episode(1, 60, size=1)])
    return root


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=2, max_size=40))
def test_no_frame_is_both_learnt_from_and_held_out(play: Path, spans: list[tuple[int, int]]) -> None:
    windows = [(first, first + steps) for first, steps in spans]
    annotations = [Annotation(first, end, "play", "play") for first, end in windows]
    write_annotations(play / "training/lang_annotations/auto_lang_ann.npy", annotations)
    source = read(play)
    held_out = source.numbers("tune")
    seen = {frame for number in held_out for frame in range(*windows[number])}
    free = [number for number in range(len(windows)) if seen.isdisjoint(range(*windows[number]))]
    if free:
        assert source.numbers("train") == free
    else:
        with pytest.raises(ConfigError, match="shares a frame with a held-out one"):
            source.numbers("train")


@pytest.mark.parametrize("window", [(3, 7), (0, 13), (12, 14), (40, 41)])
def test_a_window_outside_of_the_recordings_is_an_error(
    writers: ModuleType, tmp_path: Path, window: tuple[int, int]
) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(1, 5), writers.episode(2, 8)], [(5, 13), window])
    with pytest.raises(ArtifactError, match=f"found frames {window[0]} to {window[1] - 1} "):
        read(root)


def damage(root: Path, frame: int, **changed: Any) -> None:
    path = root / "training" / frame_name(frame)
    with np.load(path) as archive:
        arrays = {**dict(archive), **changed}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def test_a_frame_that_cannot_be_used_is_named(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(number, 3) for number in range(6)])
    damage(root, 1, robot_obs=np.full(8, np.nan))
    damage(root, 4, rel_actions=np.zeros(6))
    damage(root, 7, rgb_gripper=None)
    (root / "training" / frame_name(10)).unlink()
    (root / "training" / frame_name(13)).write_bytes(b"PK\x03\x04 torn")
    damage(root, 16, rel_actions=np.array([{}], object))
    source = read(root)
    messages = [
        "0000001.npz, column 'robot_obs': expected 8 finite numbers",
        "0000004.npz, column 'rel_actions': expected 7 finite numbers",
        "0000007.npz: columns that --data-map names are missing\n  'rgb_gripper'",
        "no such file: .*0000010.npz",
        "cannot read .*0000013.npz",
        "cannot read .*0000016.npz: Object arrays cannot be loaded",
    ]
    for number, message in enumerate(messages):
        with pytest.raises(ArtifactError, match=message):
            source.episode(number)


def test_images_must_be_images(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(number, 3) for number in range(2)])
    damage(root, 2, rgb_static=np.zeros((8, 8), np.uint8))
    seen = read(root).episode(0).observations[2]
    with pytest.raises(ArtifactError, match=r"0000002.npz, column 'rgb_static': expected an image"):
        seen.images["static"]


@pytest.mark.parametrize("index", [np.zeros((2, 3), int), np.zeros((0, 2), int), np.zeros((1, 2)), np.array(5)])
def test_another_index_is_an_error(writers: ModuleType, tmp_path: Path, index: np.ndarray) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(1, 3)])
    np.save(root / "training/ep_start_end_ids.npy", index)
    with pytest.raises(ArtifactError, match=r"ep_start_end_ids.npy: expected first and last frames"):
        read(root)
    (root / "training/ep_start_end_ids.npy").write_bytes(b"no array")
    with pytest.raises(ArtifactError, match=r"cannot read .*ep_start_end_ids.npy"):
        read(root)


def test_views_must_be_named(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_calvin(tmp_path, [writers.episode(1, 3)])
    with pytest.raises(ConfigError, match="expected views, found none") as caught:
        CalvinSource(root / "training", DataMap(action="rel_actions"))
    assert caught.value.hint is not None and "--data-map calvin" in caught.value.hint
