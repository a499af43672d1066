"""The scene files: meshes, textures and MJCF descriptions, which no Python package contains."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import huggingface_hub

from dyslctl.errors import EnvironmentMismatch, NotInstalled
from dyslctl_libero.settings import ASSETS, SETUP, Settings

HUB_DATASET = "lerobot/libero-assets"
FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "turbosquid_objects")
"""What a complete set of scene files has at least."""


def locate(settings: Settings) -> Path:
    """The folder of scene files: the one in the settings, unpacked if it is an archive, or the one ``setup`` fetched.

    Raises:
        NotInstalled: If there are none.
        EnvironmentMismatch: If those of the settings are missing or incomplete.
    """
    given = settings.assets
    if given is None:
        folder = settings.cache / "assets"
        if not _complete(folder):
            raise NotInstalled(
                f"LIBERO's scene files are not in {folder}",
                hint=f"{SETUP} downloads them; without network: export {ASSETS}=FOLDER or ARCHIVE.tar.xz",
            )
        return folder
    folder = _unpacked(given, settings.cache) if given.is_file() else given
    if not _complete(folder):
        lacking = [name for name in FOLDERS if not (folder / name).is_dir()]
        raise EnvironmentMismatch(
            f"{ASSETS}={given}: expected LIBERO's scene files, found no folder {', '.join(lacking)}",
            hint=f"name the folder that contains {FOLDERS[0]}, or an archive of it",
        )
    return folder


def fetch(settings: Settings) -> Path:
    """:func:`locate`, after a download from the Hub if nothing is here.

    Those of the settings are linked from the cache, if it has none: later commands find them without being told.

    Raises:
        EnvironmentMismatch: If the Hub cannot be reached, or those of the settings are missing or incomplete.
    """
    kept = settings.cache / "assets"
    if settings.assets is not None:
        folder = locate(settings)
        if not kept.exists():
            kept.unlink(missing_ok=True)  # a link that leads nowhere
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.symlink_to(folder)
        return folder
    if not _complete(kept):
        partial = kept.with_name("assets.partial")
        if kept.is_symlink():
            kept.unlink()  # it leads nowhere, or to a part of them
        if kept.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            kept.rename(partial)  # a download that an earlier version made in place, and did not finish
        try:
            huggingface_hub.snapshot_download(HUB_DATASET, repo_type="dataset", local_dir=partial)
        except Exception as error:  # errors of whichever HTTP library the Hub client uses come through
            raise EnvironmentMismatch(
                f"the scene files of '{HUB_DATASET}' could not be downloaded: {type(error).__name__}: {error}",
                hint=f"check the network, or download them elsewhere and export {ASSETS}=FOLDER or ARCHIVE.tar.xz",
            ) from error
        partial.rename(kept)
    return locate(settings)


def fingerprint(folder: Path) -> str:
    """12 hex digits that differ between sets of scene files: of the relative paths and sizes of all of them."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    wanted = [(name, path) for name, path in files if name.split("/")[0] in (*FOLDERS, "textures")]
    listing = "".join(f"{name} {path.stat().st_size}\n" for name, path in wanted)
    return sha256(listing.encode()).hexdigest()[:12]


def _complete(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in FOLDERS)


def _unpacked(archive: Path, cache: Path) -> Path:
    """The folder that ``archive`` is unpacked into, once for each size and time of change."""
    stat = archive.stat()
    identity = sha256(f"{archive} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache / f"assets-{identity}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache))
    try:
        with tarfile.open(archive) as file:
            file.extractall(scratch, filter="data")
    except (tarfile.TarError, OSError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise EnvironmentMismatch(f"{archive} cannot be unpacked: {error}", hint="fetch it again") from error
    root = scratch if _complete(scratch) else next((path.parent for path in scratch.rglob(FOLDERS[0])), scratch)
    try:
        root.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    shutil.rmtree(scratch, ignore_errors=True)
    return folder
