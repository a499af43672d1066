from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dyslctl_openvla_oft.checkpoint import fingerprint, read_checkpoint

from dyslctl.errors import ArtifactError

Write = Callable[[], Path]


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        read_checkpoint(folder)
    return str(error.value)


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json", "preprocessor_config.json"])
def test_missing_and_damaged_files(write: Write, name: str) -> None:
    folder = write()
    (folder / name).write_text('{"model_type": ')
    assert f"{name}: not as expected" in refusal(folder)
    (folder / name).unlink()
    assert f"{name}: cannot be read: No such file or directory" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "llama"}, "model_type: Input should be 'openvla'"),
        ({"vision_backbone_id": "siglip-vit-so400m"}, "vision_backbone_id: Input should be"),
        ({"image_sizes": [28, 56]}, "one image size and one patch grid"),
        ({"vision_config": {"dino": {"widht": 16}}}, "vision_config.dino.widht: Extra inputs are not permitted"),
        ({"oft": {"chunk_length": "many"}}, "oft.chunk_length: Input should be a valid integer"),
        ({"pad_token_id": 3}, "pad id: 3 in config.json"),
        ({"image_sizes": [56, 56]}, "image size: 56 in config.json, 28 in preprocessor_config.json"),
    ],
)
def test_config_that_contradicts(write: Write, change: dict[str, Any], problem: str) -> None:
    folder = write()
    edit(folder / "config.json", lambda values: values.update(change))
    assert problem in refusal(folder)


def test_embeddings_too_few_and_stop_id_moved(write: Write) -> None:
    folder = write()
    edit(folder / "config.json", lambda values: values["text_config"].update(vocab_size=64, eos_token_id=5))
    message = refusal(folder)
    assert "tokens, but only 64 embeddings" in message
    assert "stop id: 5 in config.json, 2 in tokenizer" in message


def test_statistics_of_another_robot(write: Write) -> None:
    folder = write()

    def shorten(values: Any) -> None:
        for name, row in values["tabletop"]["proprio"].items():
            values["tabletop"]["proprio"][name] = row[:4]

    edit(folder / "dataset_statistics.json", shorten)
    assert "proprio dimensions: 5 in config.json, 4 in statistics of 'tabletop'" in refusal(folder)


def test_statistics_must_be_finite(write: Write) -> None:
    folder = write()
    edit(folder / "dataset_statistics.json", lambda values: values["tabletop"]["action"]["q99"].__setitem__(0, 1e999))
    assert "tabletop.action.q99.0" in refusal(folder)


def test_keys_of_the_released_code_are_kept(write: Write) -> None:
    folder = write()
    edit(folder / "config.json", lambda values: values.update(norm_stats={"bridge": {}}, n_action_bins=256))
    assert read_checkpoint(folder).config.model_dump()["norm_stats"] == {"bridge": {}}


def test_fingerprint_follows_every_file_that_matters(write: Write) -> None:
    folder = write()
    before = fingerprint(folder)
    assert before == fingerprint(write())
    assert len(before) == 64
    (folder / "README.md").write_text("not part of it")
    assert fingerprint(folder) == before
    for name in ("dataset_statistics.json", "tokenizer.json", "model-00001-of-*", "action_head--*"):
        (path,) = write().glob(name)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert fingerprint(folder) != before
