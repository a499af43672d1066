from __future__ import annotations

import pytest

from dyslctl.artifacts.manifest import check_same
from dyslctl.errors import ArtifactError


def test_equal_manifests_pass() -> None:
    check_same({"a": {"b": 1}, "c": [2]}, {"c": [2], "a": {"b": 1}}, "cannot resume", "start anew")


def test_every_difference_is_named_by_its_path() -> None:
    with pytest.raises(ArtifactError) as raised:
        check_same({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}, "cannot resume", "start anew")
    assert raised.value.message == ("cannot resume\n  a.c: then 2, now 4\n  d: then 3, now None\n  e: then None, now 5")
    assert raised.value.hint == "start anew"
