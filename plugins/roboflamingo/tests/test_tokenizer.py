from __future__ import annotations

from pathlib import Path

import pytest
from dyslctl_roboflamingo.tokenizer import ADDED, END_OF_TEXT, PromptTokenizer, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from dyslctl.errors import ArtifactError, ConfigError

WORDS = ("take the red block", "push the blue block")
TOKENIZER = build_tokenizer(WORDS)


def shown(ids: list[int]) -> list[str]:
    return [TOKENIZER.tokenizer.decode([index], skip_special_tokens=False) for index in ids]


def test_the_prompt() -> None:
    assert shown(TOKENIZER.encode("  take the red block\n")) == [
        "<image>", "take", " the", " red", " block", "<|endofchunk|>", "<|endoftext|>",
    ]  # fmt: skip


def test_added_tokens_come_last_in_openflamingos_order() -> None:
    ids = [TOKENIZER.tokenizer.token_to_id(token) for token in ADDED]
    assert ids == [TOKENIZER.vocabulary - 3, TOKENIZER.vocabulary - 2, TOKENIZER.vocabulary - 1]
    assert TOKENIZER.tokenizer.token_to_id(END_OF_TEXT) == 0


def test_long_prompts_are_cut_at_the_end() -> None:
    ids = TOKENIZER.encode("take " * 40)
    assert len(ids) == 32
    assert END_OF_TEXT not in shown(ids)


def test_shorter_rows_are_padded_on_the_right() -> None:
    ids, lengths = TOKENIZER.encode_batch(["take the red block", "push"])
    assert lengths.tolist() == [7, 4]
    assert shown(ids[1, 4:].tolist()) == ["<PAD>"] * 3


@given(st.text(max_size=30))
def test_any_words_encode(text: str) -> None:
    if any(mark in text for mark in (*ADDED, END_OF_TEXT)):
        return
    ids = PromptTokenizer(TOKENIZER.tokenizer, 10_000).encode(text)
    words = TOKENIZER.tokenizer.decode(ids[1:-2], skip_special_tokens=False)
    assert words == text.strip()


def test_marks_are_no_words() -> None:
    with pytest.raises(ConfigError, match="expected plain words, found <image>"):
        TOKENIZER.encode("look at <image>")


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = PromptTokenizer.load(tmp_path, 32)
    assert loaded.vocabulary == TOKENIZER.vocabulary
    assert loaded.encode(WORDS[1]) == TOKENIZER.encode(WORDS[1])


def test_missing_marks_get_the_next_ids(tmp_path: Path) -> None:
    """GPT-NeoX's own file has none of them."""
    Tokenizer(models.BPE(vocab={END_OF_TEXT: 0, "a": 1, "b": 2}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    tokenizer = PromptTokenizer.load(tmp_path, 32).tokenizer
    assert [tokenizer.token_to_id(token) for token in ADDED] == [3, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("{", "is no tokenizer"), ("other", r"no token <\|endoftext\|>")]
)
def test_bad_files(tmp_path: Path, content: str | None, message: str) -> None:
    if content == "other":
        Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    elif content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        PromptTokenizer.load(tmp_path, 32)
