"""What all trainings share, where several processes train together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools" / "train_mini"
PROGRAM = """
import argparse, os, sys, time
from learner import add_options, launch

def endless(args):
    (args.out / f"pid-{os.getpid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    add_options(parser := argparse.ArgumentParser())
    launch(endless, parser.parse_args(["--out", sys.argv[1], "--port", sys.argv[2], "--steps", "1", "--workers", "2"]))
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_training_leaves_no_process_behind(tmp_path: Path) -> None:
    """Two of them would go on to write the same files."""
    program = tmp_path / "endless.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))}
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path), port], env=path)
    until = time.monotonic() + 120
    while len(children := list(tmp_path.glob("pid-*"))) < 2:
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(_alive(int(child.name.removeprefix("pid-"))) for child in children):
        assert time.monotonic() < until, "they live on"
        time.sleep(0.1)
