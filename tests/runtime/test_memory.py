from __future__ import annotations

import ctypes

import pytest

from dyslctl.runtime import memory
from dyslctl.runtime.memory import large_blocks_returned


def test_the_threshold_is_low_inside_and_high_again_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_mallopt", lambda: lambda *pair: said.append(pair) or 1)
    with pytest.raises(KeyError), large_blocks_returned():
        assert said == [(-3, 1 << 20)]
        raise KeyError
    assert said == [(-3, 1 << 20), (-3, 32 << 20)]


def test_without_glibc_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory._mallopt() is None
    with large_blocks_returned():
        pass
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert memory._mallopt() is None
