from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELP = Path(__file__).with_name("help.txt")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Plain help: the boxes of the rich one change with typer's version and the width of the terminal.
    environment = {**os.environ, "TYPER_USE_RICH": "0", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "dyslctl", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_listing_of_commands_is_the_documented_one() -> None:
    assert _run("--help").stdout == HELP.read_text(encoding="utf-8")


def test_help_imports_no_torch_and_no_matplotlib() -> None:
    script = (
        "import sys; sys.argv = ['dyslctl', '--help']\n"
        "from dyslctl.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'matplotlib', 'transformers', 'scipy', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy or code else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [("plugins", "--json"), ("--version",)])
def test_what_needs_no_model_imports_no_torch(arguments: tuple[str, ...]) -> None:
    script = (
        f"import sys; sys.argv = ['dyslctl', *{arguments!r}]\n"
        "from dyslctl.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_unknown_option_is_a_usage_error_with_a_suggestion() -> None:
    result = _run("plugins", "--jsno")
    assert result.returncode == 2
    assert "--json" in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    assert _run("profil").returncode == 2


def test_completion_offers_plugin_names_without_importing_torch() -> None:
    environment = {
        **os.environ,
        "_DYSLCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "dyslctl profile op",
        "COMP_CWORD": "2",
    }
    script = (
        "import atexit, sys; sys.argv = ['dyslctl']\n"
        "from dyslctl.cli import app\n"
        "try:\n    app(prog_name='dyslctl')\nexcept SystemExit:\n    pass\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert (result.returncode, result.stdout.split()) == (0, ["openvla", "openvla-oft"]), result.stderr
