from __future__ import annotations

import json
import platform

import torch

import dyslctl
from dyslctl.artifacts.fingerprint import environment, made_with


def test_the_environment_names_versions_and_machine() -> None:
    found = environment().as_dict()
    assert found["dyslctl"] == dyslctl.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert json.loads(json.dumps(found)) == found


def test_made_with_keeps_command_and_seed() -> None:
    made = made_with("dyslctl profile tiny", 7)
    assert (made.command, made.seed, made.dyslctl) == ("dyslctl profile tiny", 7, dyslctl.__version__)
