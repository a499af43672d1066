"""The run directory: where the commands of one piece of work keep their files.

``runs/<name>/`` holds a run, ``runs/current`` is a text file with the name of the one to continue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import dyslctl
from dyslctl.artifacts.document import Document
from dyslctl.artifacts.files import atomic_write, make_folder, read_json, read_text, write_json
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean

RUNS = Path("runs")
START_HINT = "dyslctl profile openvla-oft starts a run"
RESULTS = (
    *("profile", "distill", "calibrate", "eval", "suites", "pareto", "ablation"),
    *("importance", "similarity", "kept-layers", "continuity", "allow-points", "latency", "tokens"),
    "bench",
)
"""What the commands leave in a run as ``result.json``, in the order of the work; ``eval`` has ``dyslctl.eval/1``."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class RunManifest(Document):
    """What a run works on; the content of ``manifest.json``."""

    SCHEMA: ClassVar[str] = "dyslctl.run/1"

    backbone: str
    checkpoint: str
    revision: str | None = None
    suite: str
    created: str
    dyslctl: str

    @classmethod
    def now(cls, backbone: str, checkpoint: str, suite: str, revision: str | None = None) -> RunManifest:
        """A manifest created at this moment by this version."""
        return cls(
            backbone=backbone,
            checkpoint=checkpoint,
            revision=revision,
            suite=suite,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            dyslctl=dyslctl.__version__,
        )


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def name(self) -> str:
        """What ``--run`` calls it."""
        return self.path.name

    @property
    def manifest_path(self) -> Path:
        """The file behind :meth:`manifest`."""
        return self.path / "manifest.json"

    @property
    def skip_profile(self) -> Path:
        """The skip profile, ``dyslctl profile``'s result."""
        return self.path / "skip_profile.yaml"

    @property
    def profile_config(self) -> Path:
        """How ``dyslctl profile`` was told to load backbone and data; all later commands load them alike."""
        return self.path / "config" / "profile.yaml"

    def told(self, section: str) -> dict[str, Any]:
        """What ``profile`` was told in ``section`` (``model``, ``data``); empty if there is no such file.

        Raises:
            ArtifactError: If the file is damaged.
        """
        return dict(self._profiled().get(section, {}))

    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference, as ``profile --execute-horizon`` said; ``None`` if it did not.

        Raises:
            ArtifactError: If the file is damaged.
        """
        horizon: int | None = self._profiled().get("execute_horizon")
        return horizon

    def _profiled(self) -> dict[str, Any]:
        profiled = read_yaml(self.profile_config) if self.profile_config.exists() else {}
        data = dict(profiled.get("data") or {})
        said_there = data.pop("execute_horizon", None)  # a run that an earlier version began
        return {**profiled, "data": data, "execute_horizon": profiled.get("execute_horizon") or said_there}

    def bundle(self, method: str = "dysl", stage: int = 2) -> Path:
        """Folder of the bundle of ``method`` that stage ``stage`` writes; stage 2 is the one to deploy."""
        return self.path / "bundles" / (method if stage == 2 else f"{method}-stage{stage}")

    def bundles(self) -> list[Path]:
        """The bundles there are."""
        return sorted(path for path in (self.path / "bundles").glob("*") if not path.name.startswith("."))

    def distill(self, method: str, stage: int) -> Path:
        """Folder of a stage's training state: checkpoints and loss curve."""
        return self.path / "distill" / f"{method}-stage{stage}"

    @property
    def training_lock(self) -> Path:
        """There while a command trains or calibrates here: two at once would mix their files."""
        return self.path / "training.lock"

    def eval(self, suite: str) -> Path:
        """Folder of the episodes evaluated on ``suite``."""
        return self.path / "eval" / suite

    def bench(self, device: str) -> Path:
        """Folder of the latency rows of ``device``."""
        return self.path / "bench" / device

    @property
    def report(self) -> Path:
        """Folder of reports and plots."""
        return self.path / "report"

    def manifest(self) -> RunManifest:
        """What the run works on.

        Raises:
            ArtifactError: If the manifest is missing, damaged or of another schema.
        """
        return RunManifest.parse(read_json(self.manifest_path, hint=START_HINT), str(self.manifest_path))


def place_run(name: str, root: Path = RUNS) -> RunDirectory:
    """Where the run called ``name`` is, or would be; nothing is written.

    Raises:
        ConfigError: If ``name`` is not a usable folder name.
    """
    return RunDirectory(_locate(name, root))


def save_start(run: RunDirectory, manifest: RunManifest, root: Path = RUNS) -> None:
    """Create or re-enter ``run`` to work on what ``manifest`` says, and make it the current one.

    Raises:
        EnvironmentMismatch: If the folder cannot be written.
    """
    make_folder(run.path)
    write_json(run.manifest_path, manifest.dump())
    atomic_write(root / "current", f"{run.name if run.path.parent == root else run.path.resolve()}\n")


def open_run(name: str | Path | None = None, root: Path = RUNS) -> RunDirectory:
    """The run called ``name`` (or at that path); without a name, the current one.

    Raises:
        ConfigError: If there is no such run, or no current one.
        ArtifactError: If its manifest is damaged or of another schema.
    """
    run = RunDirectory(_locate(name or current_run(root), root))
    if not run.path.is_dir():
        known = sorted(path.parent.name for path in root.glob("*/manifest.json"))
        raise ConfigError(
            f"no run at {run.path}.{did_you_mean(run.name, known)}\n  runs: {', '.join(known) or 'none'}", START_HINT
        )
    run.manifest()
    return run


def current_run(root: Path = RUNS) -> str:
    """The content of ``runs/current``.

    Raises:
        ConfigError: If no run has been started.
    """
    if not (root / "current").exists():
        raise ConfigError(f"no current run: {root / 'current'} does not exist", START_HINT)
    return read_text(root / "current", START_HINT).strip()


def _locate(name: str | Path, root: Path) -> Path:
    """``name`` is a plain name below ``root``, or a path if it is one, or holds a separator."""
    if isinstance(name, Path) or "/" in name:
        return Path(name)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' is not a run name: expected up to 64 letters, digits and . _ + -, a letter or digit first",
            hint="use such a name, or a path with a / in it",
        )
    return root / name
