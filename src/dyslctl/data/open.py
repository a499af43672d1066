"""From what ``--data`` says to a source: a folder, a file, a Hub id or a task suite."""

from __future__ import annotations

import re
from pathlib import Path

from dyslctl import plugins
from dyslctl.data.calvin import INDEX, CalvinSource, split_folder
from dyslctl.data.hdf5 import SUFFIX, Hdf5Source
from dyslctl.data.lerobot import LeRobotSource
from dyslctl.data.lerobot_index import INFO
from dyslctl.data.mapping import BESIDE, OF_DATASETS, DataMap
from dyslctl.data.of_suite import SuiteSource
from dyslctl.data.source import DemonstrationSource
from dyslctl.errors import ArtifactError, ConfigError

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
USED = ["meta/**", "data/**", "videos/**", "images/**", f"**{SUFFIX}", BESIDE]
"""Files of a Hub data set that a reader looks at."""


def open_source(name: str, columns: str | None = None) -> DemonstrationSource:
    """The recorded episodes called ``name``.

    Args:
        name: A folder or a file; a task suite, for its scripted expert's; or a Hub id ``org/name[@revision]``.
        columns: A column mapping: preset or YAML file; ``None``: the data set's own, else the preset of a known Hub
            data set, else the format's own.

    Raises:
        ArtifactError: If nothing there can be read as episodes, or a file is damaged.
        ConfigError: If ``columns`` is not known, or ``name`` is nothing of the above.
        EnvironmentMismatch: If a package of the extra ``data`` is missing.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _read(path, columns, str(path))
    suites = plugins.names(plugins.SUITES)
    if name in suites:
        return SuiteSource(plugins.load_suite(name))
    match = HUB_ID.fullmatch(name)
    if match is None or name.startswith((".", "/", "~")):
        raise ConfigError(
            f"--data: '{name}' is no folder, no {SUFFIX} file, no task suite and no Hub id."
            f"{plugins.did_you_mean(name, suites)}",
            hint="name a folder, or a Hub id such as HuggingFaceVLA/libero",
        )
    folder = _fetch(match["repo"], match["revision"])
    return _read(folder, columns, f"{match['repo']}@{folder.name}", OF_DATASETS.get(match["repo"]))


def _read(path: Path, columns: str | None, name: str, preset: str | None = None) -> DemonstrationSource:
    columns = columns or _beside(path) or preset
    if (path / INFO).is_file():
        return LeRobotSource(path, DataMap.load(columns or "lerobot"), name)
    if (frames := split_folder(path)) is not None:
        return CalvinSource(frames, DataMap.load(columns or "calvin"), name)
    if path.suffix == SUFFIX or any(path.rglob(f"*{SUFFIX}")):
        return Hdf5Source(path, DataMap.load(columns or "libero-hdf5"), name)
    raise ArtifactError(
        f"{path}: expected recorded episodes, found {_content(path)}\n"
        f"  looked for: {INFO} with a codebase_version (LeRobot 2.x or 3.0), {INDEX} (CALVIN), *{SUFFIX} (LIBERO)",
        hint=f"name the folder that holds meta/ and data/, or training/ and validation/, or the one with the {SUFFIX} "
        "files, or such a file",
    )


def _beside(path: Path) -> str | None:
    """The column mapping that the data set, or the file's folder, brings along."""
    own = (path if path.is_dir() else path.parent) / BESIDE
    return str(own) if own.is_file() else None


def _content(path: Path) -> str:
    if not path.is_dir():
        return f"a {path.suffix} file" if path.suffix else "a file without a suffix"
    return ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "an empty folder"


def _fetch(repository: str, revision: str | None) -> Path:
    """The local copy of a Hub data set, in a folder named after its commit; ``HF_HUB_OFFLINE`` is honoured."""
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=USED)
        )
    except Exception as error:  # errors of whichever HTTP library the Hub client uses come through
        name = repository if revision is None else f"{repository}@{revision}"
        raise ArtifactError(
            f"'{name}' is no folder here and could not be fetched from the Hub: {type(error).__name__}: {error}",
            hint="check the spelling and the network; HF_HUB_OFFLINE=1 uses what was downloaded before; or download "
            "it elsewhere and name the folder",
        ) from error
