"""What surrounds every command: errors become exit codes, and nothing else does."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from dyslctl.errors import ConfigError, DyslctlError

RESUME_HINT = "the same command with --resume continues where it stopped"
INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a process ended by SIGINT and SIGPIPE: 128 + the signal's number."""
TOGETHER = "distill"
"""The command that several processes run together (``jobs/distributed.py``)."""


class Command(TyperCommand):
    """A command whose errors end in one line on stderr and the documented exit code (``dyslctl.errors``)."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see the class."""
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        try:
            _check_alone(self.name)
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            _complain("interrupted", RESUME_HINT if "resume" in ctx.params else None)
            raise typer.Exit(INTERRUPTED) from None
        except DyslctlError as error:
            _traceback_if_asked(ctx)
            _complain(error.message, error.hint)
            raise typer.Exit(error.exit_code) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _traceback_if_asked(ctx)
            _complain(f"{type(error).__name__}: {error}", "this is a bug in dyslctl; --debug shows where")
            raise typer.Exit(1) from None
        return result


def _check_alone(command: str | None) -> None:
    """Processes of one launcher would all write the same files; ``distill`` alone shares its work among them."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if command != TOGETHER and processes != "1":
        raise ConfigError(
            f"'{command}' runs in one process, but a launcher started {processes} (WORLD_SIZE)",
            hint=f"start it without torchrun or accelerate launch; only '{TOGETHER}' shares its work among processes",
        )


def _complain(message: str, hint: str | None) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False)
    if hint is not None:
        console.print("[dim]  hint:[/] ", end="")
        console.print(hint, markup=False)


def _traceback_if_asked(ctx: Any) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc(file=sys.stderr)


def _silence_stdout() -> None:
    """Nobody reads any more: without this the interpreter complains once more while it shuts down."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
