from __future__ import annotations

from pathlib import Path

import pytest
from dyslctl_calvin.settings import Look, Settings

from dyslctl.errors import ConfigError


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings.of({}) == Settings(Path("/home/someone/.cache/dyslctl/calvin"), None, Look("tiny", 200), None)
    assert Settings.of({"XDG_CACHE_HOME": "/x"}).cache == Path("/x/dyslctl/calvin")


def test_every_variable() -> None:
    found = Settings.of(
        {
            "DYSLCTL_CALVIN_CACHE": "/c",
            "DYSLCTL_CALVIN_ENV": "/e",
            "DYSLCTL_CALVIN_RENDERER": "fast",
            "DYSLCTL_CALVIN_IMAGE_SIZE": "84",
            "DYSLCTL_CALVIN_SEQUENCES": "/s.json",
        }
    )
    assert found == Settings(Path("/c"), Path("/e"), Look("fast", 84), Path("/s.json"))


def test_a_bad_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="DYSLCTL_CALVIN_RENDERER: expected tiny, fast or egl, found 'opengl'"):
        Settings.of({"DYSLCTL_CALVIN_RENDERER": "opengl"})


@pytest.mark.parametrize("size", ["", "31", "1025", "-84", "84.0", "large"])
def test_a_bad_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=f"IMAGE_SIZE: expected pixels from 32 to 1024, found '{size}'"):
        Settings.of({"DYSLCTL_CALVIN_IMAGE_SIZE": size})
