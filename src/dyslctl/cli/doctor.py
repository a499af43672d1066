"""``dyslctl doctor``: is this machine fit, and what to do if not."""

from __future__ import annotations

from dyslctl.cli.options import AsJson, Debug
from dyslctl.cli.output import show
from dyslctl.errors import EnvironmentMismatch


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Check this machine, the plugins and their models.

    Python, torch, threads, disk, embedded checkpoints and renderers. Writes nothing; exit code 3 if a check fails.
    """
    from dyslctl.artifacts.run_dir import RUNS
    from dyslctl.cli.checks import run_checks

    checks = [check.as_dict() for check in run_checks(RUNS)]
    document = {"schema": "dyslctl.doctor/1", "checks": checks}
    show(document, as_json=as_json)
    failed = [check["name"] for check in checks if check["status"] == "fail"]
    if failed:
        raise EnvironmentMismatch(
            f"{len(failed)} checks failed: {', '.join(failed)}", "the last column says what to do"
        )
