"""Environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from dyslctl_libero.settings import Settings

from dyslctl.errors import ConfigError


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings.of({}) == Settings(Path("/home/someone/.cache/dyslctl/libero"), None, "exact", 256)


def test_every_variable() -> None:
    found = Settings.of(
        {
            "DYSLCTL_LIBERO_CACHE": "/c",
            "DYSLCTL_LIBERO_ASSETS": "/a.tar.xz",
            "DYSLCTL_LIBERO_RENDERER": "fast",
            "DYSLCTL_LIBERO_IMAGE_SIZE": "128",
        }
    )
    assert found == Settings(Path("/c"), Path("/a.tar.xz"), "fast", 128)


def test_the_cache_follows_the_desktop_convention() -> None:
    assert Settings.of({"XDG_CACHE_HOME": "/x"}).cache == Path("/x/dyslctl/libero")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RENDERER", "pretty"),
        ("IMAGE_SIZE", "big"),
        ("IMAGE_SIZE", "16"),
        ("IMAGE_SIZE", "-256"),
        ("IMAGE_SIZE", "2048"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"DYSLCTL_LIBERO_{name}: expected .*, found '{value}'"):
        Settings.of({f"DYSLCTL_LIBERO_{name}": value})
