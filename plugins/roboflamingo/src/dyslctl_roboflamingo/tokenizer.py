"""The prompt and its tokenizer: GPT-NeoX's, or a small one of the same build, read from a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dyslctl.artifacts.files import atomic_write, read_text
from dyslctl.errors import ArtifactError, ConfigError

FILE = "tokenizer.json"
END_OF_TEXT, END_OF_CHUNK, IMAGE, PAD = "<|endoftext|>", "<|endofchunk|>", "<image>", "<PAD>"
ADDED = (END_OF_CHUNK, IMAGE, PAD)
"""What OpenFlamingo adds to the language model's tokens, in this order."""


@dataclass(frozen=True)
class PromptTokenizer:
    """Instruction -> token ids of ``<image>INSTRUCTION<|endofchunk|><|endoftext|>``."""

    tokenizer: Tokenizer
    max_tokens: int

    @property
    def vocabulary(self) -> int:
        """Number of tokens, added ones included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, instruction: str) -> list[int]:
        """The ids, cut to ``max_tokens``.

        Raises:
            ConfigError: If the instruction holds one of the marks that the prompt is made of.
        """
        if marks := [mark for mark in (*ADDED, END_OF_TEXT) if mark in instruction]:
            raise ConfigError(f"instruction {instruction!r}: expected plain words, found {', '.join(marks)}")
        prompt = f"{IMAGE}{instruction.strip()}{END_OF_CHUNK}{END_OF_TEXT}"
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids[: self.max_tokens]

    def encode_batch(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``[B, T]`` int64 ids, shorter rows padded on the right, and the ``[B]`` lengths of the rows, on the CPU."""
        rows = [torch.tensor(self.encode(instruction)) for instruction in instructions]
        padding = cast(int, self.tokenizer.token_to_id(PAD))  # added when the file was read
        return pad_sequence(rows, batch_first=True, padding_value=padding), torch.tensor([len(row) for row in rows])

    @classmethod
    def load(cls, folder: Path, max_tokens: int) -> PromptTokenizer:
        """Read ``tokenizer.json``; added tokens that it lacks get the next ids, as in OpenFlamingo.

        Raises:
            ArtifactError: If it is missing, damaged, or has no ``<|endoftext|>``.
        """
        path = folder / FILE
        text = read_text(path, hint="MPT's is that of EleutherAI/gpt-neox-20b: put its tokenizer.json there")
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(f"{path} is no tokenizer: {error}") from error
        if tokenizer.token_to_id(END_OF_TEXT) is None:
            raise ArtifactError(f"{path} has no token {END_OF_TEXT}")
        return cls(_with_added(tokenizer), max_tokens)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        atomic_write(folder / FILE, self.tokenizer.to_str(pretty=True))


def build_tokenizer(instructions: Iterable[str], max_tokens: int = 32) -> PromptTokenizer:
    """Train a byte-level tokenizer in GPT-NeoX's style in which every word of ``instructions`` is one token.

    Prompts are short then, and the length of the sequence is what a small model pays for. Anything else still encodes,
    byte by byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator((text.strip() for text in instructions), trainer)
    return PromptTokenizer(_with_added(tokenizer), max_tokens)


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ADDED])
    return tokenizer
