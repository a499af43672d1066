from __future__ import annotations

from pathlib import Path

import pytest
from dyslctl_calvin.settings import Settings

from dyslctl.errors import ConfigError


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings.of({}) == Settings(Path("/home/someone/.cache/dyslctl/calvin"), None, "tiny", None)
    assert Settings.of({"XDG_CACHE_HOME": "/x"}).cache == Path("/x/dyslctl/calvin")


def test_every_variable() -> None:
    found = Settings.of(
        {
            "DYSLCTL_CALVIN_CACHE": "/c",
            "DYSLCTL_CALVIN_ENV": "/e",
            "DYSLCTL_CALVIN_RENDERER": "egl",
            "DYSLCTL_CALVIN_SEQUENCES": "/s.json",
        }
    )
    assert found == Settings(Path("/c"), Path("/e"), "egl", Path("/s.json"))


def test_a_bad_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="DYSLCTL_CALVIN_RENDERER: expected tiny or egl, found 'opengl'"):
        Settings.of({"DYSLCTL_CALVIN_RENDERER": "opengl"})
