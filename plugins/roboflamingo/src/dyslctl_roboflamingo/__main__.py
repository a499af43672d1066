"""``python -m dyslctl_roboflamingo``: settings for released files, and checkpoints with random weights.

python -m dyslctl_roboflamingo settings --size 3b --policy FILE --vision FILE > FOLDER/roboflamingo.yaml
python -m dyslctl_roboflamingo random-checkpoint --size tiny --out FOLDER               # 0.3 MB
python -m dyslctl_roboflamingo random-checkpoint --size 3b --out FOLDER                 # as released
python -m dyslctl_roboflamingo random-checkpoint --size 9b --values zeros --out FOLDER  # names and shapes alone
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dyslctl.errors import DyslctlError
from dyslctl_roboflamingo.config import SIZES, Files, settings_of
from dyslctl_roboflamingo.random_checkpoint import write_random_checkpoint
from dyslctl_roboflamingo.writer import POLICY

_log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.command == "settings":
            names = ("policy", "vision", "openflamingo", "language_model")
            files = Files(**{name: getattr(given, name) for name in names})
            sys.stdout.write(settings_of(given.size, files).text())
        else:
            settings = settings_of(given.size, Files(policy=POLICY))
            dtype = DTYPES[given.dtype]
            write_random_checkpoint(given.out, settings, seed=given.seed, values=given.values, dtype=dtype)
            _log.warning("wrote %s", given.out)
    except DyslctlError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dyslctl_roboflamingo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    settings = commands.add_parser("settings", help="print the settings file that belongs beside released files")
    settings.add_argument("--size", choices=[size for size in SIZES if size != "tiny"], default="3b")
    settings.add_argument("--policy", required=True, help="RoboFlamingo's file")
    settings.add_argument("--vision", help="CLIP ViT-L/14, OpenAI's weights")
    settings.add_argument("--openflamingo", help="checkpoint.pt, for what the policy's file does not hold")
    settings.add_argument("--language-model", help="MPT, for what neither holds (9b: its final norm)")
    random = commands.add_parser("random-checkpoint", help="write a checkpoint with random weights")
    random.add_argument("--out", type=Path, required=True, help="a checkpoint that is there is replaced")
    random.add_argument("--size", choices=list(SIZES), default="3b")
    random.add_argument("--values", choices=["random", "zeros"], default="random")
    random.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the stored weights")
    random.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
