"""Where scene files come from."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dyslctl_libero import assets
from dyslctl_libero.settings import Settings

from dyslctl.errors import EnvironmentMismatch, NotInstalled


def _archive(folder: Path, path: Path, under: str = ".") -> Path:
    with tarfile.open(path, "w:xz") as file:
        file.add(folder, arcname=under)
    return path


def test_none_at_all_comes_with_the_command_that_fetches_them(settings: Settings) -> None:
    with pytest.raises(NotInstalled, match="scene files are not in") as caught:
        assets.locate(settings)
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None and "python -m dyslctl_libero setup" in caught.value.hint
    assert "DYSLCTL_LIBERO_ASSETS" in caught.value.hint


def test_a_folder_is_used_where_it_is(settings: Settings, scene_files: Path) -> None:
    assert assets.locate(replace(settings, assets=scene_files)) == scene_files


def test_downloaded_ones_are_found(settings: Settings, scene_files: Path) -> None:
    shutil.copytree(scene_files, settings.cache / "assets")
    assert assets.locate(settings) == settings.cache / "assets"


@pytest.mark.parametrize("under", [".", "libero/assets"])
def test_an_archive_is_unpacked_once(settings: Settings, scene_files: Path, tmp_path: Path, under: str) -> None:
    given = replace(settings, assets=_archive(scene_files, tmp_path / "files.tar.xz", under))
    folder = assets.locate(given)
    assert (folder / "scenes" / "thing.xml").read_text() == "<scenes/>"
    (folder / "scenes" / "thing.xml").write_text("kept")
    assert assets.locate(given) == folder
    assert (folder / "scenes" / "thing.xml").read_text() == "kept"
    assert [path.name for path in settings.cache.iterdir()] == [folder.name]  # nothing half unpacked is left


def test_setup_keeps_what_it_is_told_for_later_commands(settings: Settings, scene_files: Path, tmp_path: Path) -> None:
    given = replace(settings, assets=_archive(scene_files, tmp_path / "files.tar.xz"))
    assert assets.fetch(given) == assets.locate(given)
    assert (assets.locate(settings) / "scenes" / "thing.xml").read_text() == "<scenes/>"
    assert assets.fingerprint(assets.locate(settings)) == assets.fingerprint(assets.locate(given))


def test_setup_replaces_a_link_that_leads_nowhere_and_no_download(
    settings: Settings, scene_files: Path, tmp_path: Path
) -> None:
    kept = settings.cache / "assets"
    kept.parent.mkdir(parents=True)
    kept.symlink_to(tmp_path / "gone")
    assets.fetch(replace(settings, assets=scene_files))
    assert assets.locate(settings) == kept and kept.resolve() == scene_files.resolve()
    kept.unlink()
    shutil.copytree(scene_files, kept)
    assets.fetch(replace(settings, assets=scene_files))
    assert not kept.is_symlink()


def test_another_archive_of_the_same_name_is_unpacked_anew(
    settings: Settings, scene_files: Path, tmp_path: Path
) -> None:
    given = replace(settings, assets=_archive(scene_files, tmp_path / "files.tar.xz"))
    first = assets.locate(given)
    (scene_files / "scenes" / "more.xml").write_text("<more/>" * 100)
    _archive(scene_files, tmp_path / "files.tar.xz")
    assert assets.locate(given) != first


def test_an_incomplete_folder_is_refused(settings: Settings, scene_files: Path) -> None:
    shutil.rmtree(scene_files / "scenes")
    with pytest.raises(EnvironmentMismatch, match="found no folder scenes"):
        assets.locate(replace(settings, assets=scene_files))


def test_a_damaged_archive_is_refused_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "files.tar.xz"
    path.write_bytes(b"not an archive")
    with pytest.raises(EnvironmentMismatch, match="cannot be unpacked"):
        assets.locate(replace(settings, assets=path))
    assert list(settings.cache.iterdir()) == []


def test_an_archive_writes_nowhere_else(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "files.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        file.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    with pytest.raises(EnvironmentMismatch, match="cannot be unpacked"):
        assets.locate(replace(settings, assets=path))
    assert not list(tmp_path.rglob("escaped"))


def test_the_fingerprint_tells_sets_apart(scene_files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(scene_files, other)
    (other / ".cache").mkdir()
    (other / ".cache" / "download.lock").write_text("not a scene file")
    assert assets.fingerprint(other) == assets.fingerprint(scene_files)
    (other / "scenes" / "thing.xml").write_text("<quite another scene/>")
    assert assets.fingerprint(other) != assets.fingerprint(scene_files)


def test_without_network_the_download_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(assets.huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(EnvironmentMismatch, match="no route to host") as caught:
        assets.fetch(settings)
    assert caught.value.hint is not None and "DYSLCTL_LIBERO_ASSETS" in caught.value.hint


def test_a_download_lands_in_the_cache(settings: Settings, scene_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, *, repo_type: str, local_dir: Path) -> None:
        assert (repository, repo_type) == ("lerobot/libero-assets", "dataset")
        shutil.copytree(scene_files, local_dir)

    monkeypatch.setattr(assets.huggingface_hub, "snapshot_download", download)
    assert assets.fetch(settings) == settings.cache / "assets"
    assert [path.name for path in settings.cache.iterdir()] == ["assets"]
    monkeypatch.setattr(assets.huggingface_hub, "snapshot_download", None)  # a second time would fail
    assert assets.fetch(settings) == settings.cache / "assets"


def test_an_interrupted_download_is_no_set_of_scene_files(
    settings: Settings, scene_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All folders are there long before all files are."""

    def interrupted(*_: Any, local_dir: Path, **__: Any) -> None:
        for folder in assets.FOLDERS:
            (local_dir / folder).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(assets.huggingface_hub, "snapshot_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch(settings)
    with pytest.raises(NotInstalled):
        assets.locate(settings)

    def resumed(*_: Any, local_dir: Path, **__: Any) -> None:
        shutil.copytree(scene_files, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(assets.huggingface_hub, "snapshot_download", resumed)
    assert assets.fingerprint(assets.fetch(settings)) == assets.fingerprint(scene_files)
