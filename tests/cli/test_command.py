from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dyslctl.cli.command import Command
from dyslctl.errors import ArtifactError, ConfigError, DyslctlError, EnvironmentMismatch, PluginError, ThresholdNotMet


def _app(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command("fail", cls=Command)
    def fail(
        debug: Annotated[bool, typer.Option("--debug")] = False,
        resume: Annotated[bool, typer.Option("--resume")] = False,
    ) -> None:
        raise error

    @app.callback()
    def options() -> None: ...

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DyslctlError("internal"), 1),
        (ConfigError("usage"), 2),
        (PluginError("plugin"), 3),
        (EnvironmentMismatch("environment"), 3),
        (ArtifactError("artifact"), 4),
        (ThresholdNotMet("threshold"), 5),
        (ZeroDivisionError("bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    result = CliRunner().invoke(_app(error), ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_message_and_hint_are_shown_as_they_are() -> None:
    error = ConfigError("expected [bold]a[/], found b", hint="dyslctl [plugins]")
    result = CliRunner().invoke(_app(error), ["fail"])
    assert result.stderr == "error: expected [bold]a[/], found b\n  hint: dyslctl [plugins]\n"


def test_an_unexpected_exception_is_one_line_and_debug_shows_where() -> None:
    result = CliRunner().invoke(_app(ZeroDivisionError("by zero")), ["fail"])
    assert result.stderr.startswith("error: ZeroDivisionError: by zero\n")
    debugged = CliRunner().invoke(_app(ZeroDivisionError("by zero")), ["fail", "--debug"])
    assert debugged.exit_code == 1
    assert "Traceback (most recent call last)" in debugged.stderr


def test_interrupting_says_how_to_go_on() -> None:
    assert "--resume" in CliRunner().invoke(_app(KeyboardInterrupt()), ["fail"]).stderr


def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    script = "import sys; sys.argv = ['dyslctl', 'plugins']; from dyslctl.cli import main; input(); main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()  # nobody reads, before anything is written
    process.stdin.write("\n")
    process.stdin.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert stderr == ""


def test_a_launcher_may_start_distill_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of one launcher would write the same files; only distill shares its work among them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    app = typer.Typer()

    @app.command("distill", cls=Command)
    def distill() -> None: ...

    @app.command("profile", cls=Command)
    def profile() -> None: ...

    assert CliRunner().invoke(app, ["distill"]).exit_code == 0
    refused = CliRunner().invoke(app, ["profile"])
    assert refused.exit_code == 2
    assert "'profile' runs in one process, but a launcher started 2" in refused.stderr
