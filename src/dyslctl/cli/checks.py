"""What ``dyslctl doctor`` looks at. Each check answers for itself; one that breaks is a failed check, not a crash."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from dyslctl import plugins
from dyslctl.errors import NotInstalled

Status = Literal["ok", "warn", "fail"]
GOLDEN_FRAMES = {
    "tabletop_object": (138.45, 132.09, 129.85),
    "tabletop_spatial": (136.4, 130.84, 128.71),
    "tabletop_chain": (139.71, 133.28, 129.31),
}
"""Mean red, green and blue of the first ``tune`` frame of the built-in suites, to one level of 255."""

FREE_GB = 1.0
"""A demo run needs far less; a published checkpoint far more, which its own download reports."""


@dataclass(frozen=True)
class Check:
    """One line of the result. ``fix`` says what to do, and is empty if all is well."""

    name: str
    status: Status
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The keys of the JSON document."""
        return asdict(self)


def run_checks(runs: Path) -> Iterator[Check]:
    """Every check in turn, cheap ones first.

    Args:
        runs: Folder that holds the runs.
    """
    yield _guard("python", _python)
    yield _guard("torch", _torch)
    yield _guard("threads", _threads)
    yield _guard("transformers", _transformers)
    yield _guard("disk space", partial(_disk, runs))
    yield _guard("run folder", partial(_writable, runs))
    for name in plugins.names(plugins.BACKBONES):
        yield _guard(f"backbone {name}", partial(_backbone, name))
    for name in plugins.names(plugins.SUITES):
        yield _guard(f"suite {name}", partial(_suite, name))


def _guard(name: str, check: Callable[[], tuple[Status, str, str]]) -> Check:
    try:
        return Check(name, *check())
    except NotInstalled as error:
        return Check(name, "warn", error.message, error.hint or "")
    except Exception as error:
        hint = getattr(error, "hint", None)
        return Check(name, "fail", f"{type(error).__name__}: {getattr(error, 'message', error)}", hint or "")


def _python() -> tuple[Status, str, str]:
    found = ".".join(map(str, sys.version_info[:3]))
    return ("ok", found, "") if sys.version_info >= (3, 11) else ("fail", found, "install Python 3.11 or newer")


def _torch() -> tuple[Status, str, str]:
    import torch

    works = [name for name in ("float32", "bfloat16", "float16") if _multiplies(getattr(torch, name))]
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    detail = f"{torch.__version__}, {device}, {', '.join(works)}"
    return ("ok", detail, "") if len(works) == 3 else ("warn", detail, "use one of the dtypes listed")


def _multiplies(dtype: Any) -> bool:
    import torch

    try:
        square = torch.ones(8, 8, dtype=dtype)
        return bool((square @ square == 8).all())
    except RuntimeError:
        return False


def _threads() -> tuple[Status, str, str]:
    import torch

    from dyslctl.devices.host import usable_cpus

    threads, cpus = torch.get_num_threads(), usable_cpus()
    detail = f"torch uses {threads} threads, this process may use {cpus} cores"
    if threads > cpus:
        return "warn", detail, f"export OMP_NUM_THREADS={cpus}: threads that share a core wait for each other"
    return "ok", detail, ""


def _transformers() -> tuple[Status, str, str]:
    try:
        found = version("transformers")
    except PackageNotFoundError:
        return "warn", "not installed", "backbones need it: pip install dyslctl-openvla-oft, or dyslctl-roboflamingo"
    return "ok", found, ""


def _disk(runs: Path) -> tuple[Status, str, str]:
    free = shutil.disk_usage(_existing(runs)).free / 1e9
    detail = f"{free:.1f} GB free at {_existing(runs)}"
    return ("ok", detail, "") if free >= FREE_GB else ("warn", detail, "free some space, or choose another --run")


def _writable(runs: Path) -> tuple[Status, str, str]:
    folder = _existing(runs)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return "ok", f"{folder} is writable", ""
    except OSError as error:
        return "fail", f"{folder}: {error.strerror}", "choose a folder you may write to with --run"


def _existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists: doctor leaves nothing behind."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _backbone(name: str) -> tuple[Status, str, str]:
    from dyslctl.jobs import behaviour

    kind = plugins.load_backbone(name)
    checkpoint = kind.default_checkpoint()
    if checkpoint is None:
        return "ok", "imports; it brings no checkpoint of its own", ""
    if not Path(checkpoint).is_dir():
        return "ok", f"imports; its default checkpoint {checkpoint} is not a folder here and was not loaded", ""
    backbone = kind.load(checkpoint)
    spec = backbone.spec
    detail = f"{Path(checkpoint).name} loads: {spec.num_layers} layers of {spec.hidden_size}"
    if not (Path(checkpoint) / behaviour.FILE).exists():
        return "ok", f"{detail}; it has no stored behaviour to compare with", ""
    deviation = behaviour.deviation(Path(checkpoint), backbone)
    detail = f"{detail}; acts within {deviation:.1g} of its stored behaviour"
    if deviation > behaviour.TOLERANCE:
        return "fail", detail, "another library version computes something else: pip install the plugin's own pins"
    return "ok", detail, ""


def _suite(name: str) -> tuple[Status, str, str]:
    suite = plugins.load_suite(name)
    environment = suite.make()
    try:
        environment.reset(suite.episodes("tune", 1)[0])
        frame = environment.render()
    finally:
        environment.close()
    about = ", ".join(f"{key} {value}" for key, value in suite.identity().items())
    detail = f"{len(suite.tasks)} tasks, renders {frame.shape[1]} x {frame.shape[0]}{about and '; '}{about}"
    if frame.min() == frame.max():
        return "fail", f"{detail}, all of one colour", f"check the renderer of {name}"
    golden = GOLDEN_FRAMES.get(name)
    if golden is not None and max(abs(a - b) for a, b in zip(frame.mean((0, 1)), golden, strict=True)) > 1:
        return "fail", f"{detail}, but another picture than this version draws", "reinstall dyslctl"
    return "ok", detail + ("" if golden is None else ", the expected picture"), ""
