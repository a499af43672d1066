from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyslctl.artifacts.files import read_json, write_json
from dyslctl.errors import ArtifactError
from dyslctl.jobs import behaviour


@pytest.fixture(autouse=True)
def _suite(tiny_suite: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "load_suite", lambda name: tiny_suite())


def test_the_same_weights_answer_the_same(tmp_path: Path, tiny_backbone: type, tiny_suite: type) -> None:
    behaviour.save(tmp_path, tiny_backbone(memory=True), tiny_suite())
    assert behaviour.deviation(tmp_path, tiny_backbone(memory=True)) < 1e-6


def test_other_weights_are_noticed(tmp_path: Path, tiny_backbone: type, tiny_suite: type) -> None:
    behaviour.save(tmp_path, tiny_backbone(seed=0), tiny_suite())
    assert behaviour.deviation(tmp_path, tiny_backbone(seed=1)) > behaviour.TOLERANCE


def test_the_deviation_is_the_largest_difference(tmp_path: Path, tiny_backbone: type, tiny_suite: type) -> None:
    path = behaviour.save(tmp_path, tiny_backbone(), tiny_suite())
    kept = read_json(path)
    kept["actions"][1][2] += 0.25
    write_json(path, kept)
    assert behaviour.deviation(tmp_path, tiny_backbone()) == pytest.approx(0.25, abs=1e-6)


def test_another_shape_is_refused(tmp_path: Path, tiny_backbone: type, tiny_suite: type) -> None:
    behaviour.save(tmp_path, tiny_backbone(chunk_length=4), tiny_suite())
    with pytest.raises(ArtifactError, match=r"actions \[2, 3\]"):
        behaviour.deviation(tmp_path, tiny_backbone(chunk_length=2))


def test_the_answer_leaves_no_trace_in_the_head(tiny_backbone: type, tiny_suite: type) -> None:
    backbone = tiny_backbone(memory=True)
    first = behaviour.answer(backbone, tiny_suite())
    np.testing.assert_array_equal(behaviour.answer(backbone, tiny_suite()), first)
