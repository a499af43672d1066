"""The prompt and its tokenizer: Llama's, or a small one of the same build, read from a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dyslctl.errors import ArtifactError

PROMPT = "In: What action should the robot take to {}?\nOut:"
SPACE = "▁"
PUBLISHED_SPACE_ID, PUBLISHED_PAD_ID = 29871, 32000
UNKNOWN, BOS, STOP, PAD = "<unk>", "<s>", "</s>", "<PAD>"


@dataclass(frozen=True)
class PromptTokenizer:
    """Instruction -> token ids.

    Attributes:
        tokenizer: The one in ``tokenizer.json``.
        bos_id: First token of every sequence.
        stop_id: Last token of every sequence.
        pad_id: Filler of shorter prompts.
        space_id: The lone ``▁``: the space after ``Out:`` that the model was trained to act from.
    """

    tokenizer: Tokenizer
    bos_id: int
    stop_id: int
    pad_id: int
    space_id: int

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, instruction: str) -> list[int]:
        """``[BOS, prompt..., ▁]``; the last id is what the first action dimension is read from."""
        ids = self.tokenizer.encode(PROMPT.format(instruction.lower()), add_special_tokens=False).ids
        return [self.bos_id, *ids] if ids[-1] == self.space_id else [self.bos_id, *ids, self.space_id]

    def encode_batch(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``[B, T]`` int64 ids, shorter rows padded on the right, and the ``[B]`` lengths of the rows, on the CPU."""
        rows = [torch.tensor(self.encode(instruction)) for instruction in instructions]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        return ids, torch.tensor([len(row) for row in rows])

    @classmethod
    def load(cls, folder: Path) -> PromptTokenizer:
        """Read ``tokenizer.json`` and the special tokens named in ``tokenizer_config.json``.

        Raises:
            ArtifactError: If a file is missing or damaged, or a special token is not in the vocabulary.
        """
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
            special = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            names = [_content(special[key]) for key in ("bos_token", "eos_token", "pad_token")]
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(f"tokenizer of {folder} does not load: {type(error).__name__}: {error}") from error
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        if absent := [name for name in [*names, SPACE] if name not in vocab]:
            raise ArtifactError(f"{path} has no token {', '.join(map(repr, absent))}")
        bos, stop, pad = (vocab[name] for name in names)
        return cls(tokenizer, bos, stop, pad, vocab[SPACE])

    def save(self, folder: Path) -> None:
        """Write the tokenizer files of a published checkpoint."""
        special = {"bos_token": BOS, "eos_token": STOP, "pad_token": PAD, "unk_token": UNKNOWN}
        settings = {
            **special,
            "add_bos_token": True,
            "add_eos_token": False,
            "model_max_length": 2048,
            "padding_side": "right",
            "tokenizer_class": "LlamaTokenizer",
        }
        self.tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(folder / "tokenizer_config.json", settings)
        _write_json(folder / "special_tokens_map.json", special)
        _write_json(folder / "added_tokens.json", {PAD: self.pad_id})


def build_tokenizer(instructions: Iterable[str], *, published_ids: bool = False) -> PromptTokenizer:
    """Train a byte-pair tokenizer in Llama's style in which every word of ``instructions`` is one token.

    The fixed beginning of the prompt becomes one token as well, and so does its end: prompts are short, and the
    length of the sequence is what a small model pays for. Anything else still encodes, by letters and bytes.

    Args:
        instructions: What the robot will be told.
        published_ids: Fill the vocabulary up, so that ``▁`` is token 29871 and ``<PAD>`` 32000, as in Llama's.
    """
    words, merges = _train(PROMPT.format(text.lower()) for text in instructions)
    opening = [SPACE + word for word in PROMPT.partition(" {}")[0].split()]
    for count in range(1, len(opening)):
        merges.append(("".join(opening[:count]), opening[count]))
        words.append("".join(opening[: count + 1]))
    tokens = dict.fromkeys([UNKNOWN, BOS, STOP, *(f"<0x{byte:02X}>" for byte in range(256)), *words])
    vocab = _published_ids(tokens) if published_ids else {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    return _assemble(Tokenizer(model))


def _published_ids(tokens: Iterable[str]) -> dict[str, int]:
    """``tokens`` in order from 0 on, but for ``▁``; what lies between is never produced."""
    order = [token for token in tokens if token != SPACE]
    order += [f"<unused{index}>" for index in range(len(order), PUBLISHED_SPACE_ID)]
    order += [SPACE, *(f"<unused{index}>" for index in range(PUBLISHED_SPACE_ID + 1, PUBLISHED_PAD_ID))]
    return {token: index for index, token in enumerate(order)}


def _train(prompts: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-pair encoding of the words in ``prompts``, until each of them is one token: vocabulary, merges in order."""
    trainee = Tokenizer(models.BPE())
    trainee.normalizer = _normalizer()
    trainee.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁[^▁?]*|\?[^▁]*"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=32_000, show_progress=False, initial_alphabet=[SPACE])
    trainee.train_from_iterator(prompts, trainer)
    trained: dict[str, Any] = json.loads(trainee.to_str())["model"]
    return sorted(trained["vocab"], key=trained["vocab"].get), [(left, right) for left, right in trained["merges"]]


def _assemble(tokenizer: Tokenizer) -> PromptTokenizer:
    """Around the vocabulary, what Llama's tokenizer has."""
    tokenizer.normalizer = _normalizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (UNKNOWN, BOS, STOP, PAD)])
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    bos, stop, pad, space = (vocab[token] for token in (BOS, STOP, PAD, SPACE))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)]
    )
    return PromptTokenizer(tokenizer, bos, stop, pad, space)


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def _content(token: Any) -> str:
    """A special token as text; ``tokenizer_config.json`` holds a string or a described token."""
    return str(token["content"] if isinstance(token, dict) else token)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
