from __future__ import annotations

import json
from pathlib import Path

import pytest
from dyslctl_openvla_oft.tokenizer import PROMPT, PromptTokenizer, build_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st

from dyslctl.errors import ArtifactError

TOKENIZER = build_tokenizer(["put the red cube in the purple bin", "stack the blue cube on the green block"])


def pieces(instruction: str) -> list[str | None]:
    return [TOKENIZER.tokenizer.id_to_token(index) for index in TOKENIZER.encode(instruction)]


def test_every_word_is_one_token_and_the_template_three() -> None:
    assert pieces("Put the red cube in the purple bin") == [
        "<s>",
        "▁In:▁What▁action▁should▁the▁robot▁take▁to",
        *["▁put", "▁the", "▁red", "▁cube", "▁in", "▁the", "▁purple", "▁bin"],
        "?\nOut:",
        "▁",
    ]


def test_llama_ids_of_special_tokens() -> None:
    special = (TOKENIZER.bos_id, TOKENIZER.stop_id, TOKENIZER.pad_id, TOKENIZER.space_id)
    vocab = TOKENIZER.tokenizer.get_vocab()
    assert special == (1, 2, TOKENIZER.vocab_size - 1, vocab["▁"])
    assert sorted(vocab.values()) == list(range(TOKENIZER.vocab_size))


def test_the_lone_space_is_not_doubled() -> None:
    ids = TOKENIZER.encode("put the red cube in the purple bin")
    assert ids.count(TOKENIZER.space_id) == 1
    assert ids[-1] == TOKENIZER.space_id


@given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30))
def test_any_text_survives(text: str) -> None:
    """Unknown words fall back to letters and bytes; nothing is lost and nothing becomes a special token."""
    prompt = PROMPT.format(text.lower())
    assume(not any(token in prompt for token in ("<unk>", "<s>", "</s>", "<pad>")))
    ids = TOKENIZER.encode(text)[1:]
    assert TOKENIZER.tokenizer.decode(ids, skip_special_tokens=False).removesuffix(" ") == prompt
    assert not set(ids) & {0, 1, 2, TOKENIZER.pad_id}


def test_batch_is_padded_on_the_right() -> None:
    ids, lengths = TOKENIZER.encode_batch(["put the red cube in the purple bin", "put"])
    assert lengths.tolist() == [12, 5]
    assert ids[1].tolist() == [*TOKENIZER.encode("put"), *[TOKENIZER.pad_id] * 7]


def test_save_and_load(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = PromptTokenizer.load(tmp_path)
    assert loaded.encode("stack the zebra é") == TOKENIZER.encode("stack the zebra é")
    assert (loaded.bos_id, loaded.stop_id, loaded.pad_id, loaded.space_id) == (1, 2, TOKENIZER.pad_id, loaded.space_id)
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {"<PAD>": TOKENIZER.pad_id}


def test_published_form_of_special_tokens(tmp_path: Path) -> None:
    """``tokenizer_config.json`` may describe a token instead of naming it."""
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token": {"content": "</s>", "lstrip": False}}))
    assert PromptTokenizer.load(tmp_path).stop_id == 2


def test_build_is_reproducible() -> None:
    again = build_tokenizer(["put the red cube in the purple bin", "stack the blue cube on the green block"])
    assert again.tokenizer.to_str() == TOKENIZER.tokenizer.to_str()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_damaged_files(tmp_path: Path, file: str, content: str | None) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ArtifactError, match="does not load"):
        PromptTokenizer.load(tmp_path)


def test_a_special_token_outside_the_vocabulary(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<filler>"}))
    with pytest.raises(ArtifactError, match="no token '<filler>'"):
        PromptTokenizer.load(tmp_path)
