from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.data.calvin_annotations import Annotation, read_annotations, write_annotations
from dyslctl.errors import ArtifactError

WINDOWS = st.builds(
    lambda first, steps, words, task: Annotation(first, first + steps, words, task),
    st.integers(0, 10**7),
    st.integers(1, 64),
    st.text(max_size=20),
    st.text(max_size=20),
)


def content(**changed: Any) -> dict[str, Any]:
    language = {"ann": ["open the drawer"], "task": ["open_drawer"], "emb": np.ones((1, 1, 4), np.float32)}
    info = {"episodes": [], "indx": [(np.int64(3), np.int64(67))]}
    return {"language": {**language, **changed.get("language", {})}, "info": {**info, **changed.get("info", {})}}


def save(path: Path, value: Any) -> Path:
    np.save(path, np.array(value, object), allow_pickle=True)
    return path


def pickled(path: Path, data: bytes) -> Path:
    """``data`` in the place of what ``numpy.save`` pickles."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(np.empty((), object)))
    path.write_bytes(head.getvalue() + data)
    return path


def test_what_numpy_saved_is_read(tmp_path: Path) -> None:
    assert read_annotations(save(tmp_path / "a.npy", content())) == [
        Annotation(3, 67, "open the drawer", "open_drawer")
    ]


def test_files_of_old_versions_are_read(tmp_path: Path) -> None:
    """They name ``numpy.core``, and say 0 and 1 where truth values are meant."""

    held = np.empty((), object)
    held[()] = content()
    data = pickle.dumps(held, 3).replace(b"cnumpy._core.", b"cnumpy.core.").replace(b"\x89\x88\x87R", b"K\0K\1\x87R")
    assert b"cnumpy.core.multiarray\nscalar" in data and b"_core" not in data
    assert read_annotations(pickled(tmp_path / "old.npy", data)) == [
        Annotation(3, 67, "open the drawer", "open_drawer")
    ]


@given(st.lists(WINDOWS, min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, windows: list[Annotation]) -> None:
    path = tmp_path_factory.mktemp("ann") / "a.npy"
    write_annotations(path, windows)
    assert read_annotations(path) == windows
    theirs = np.load(path, allow_pickle=True).item()  # as the released loaders read it
    assert theirs["info"]["indx"] == [(each.first, each.end) for each in windows]
    assert theirs["language"]["ann"] == [each.words for each in windows]


def test_what_is_written_names_nothing_that_old_versions_lack(tmp_path: Path) -> None:
    write_annotations(tmp_path / "a.npy", [Annotation(0, 1, "a", "b")])
    with (tmp_path / "a.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        words = {argument for _, argument, _ in pickletools.genops(file) if isinstance(argument, str)}
    assert "numpy" in words and not any("core" in word for word in words)


class Malicious:
    """Unpickled by anything else, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_file_does_not_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "ran"
    data = pickle.dumps([content(), Malicious(trap)], protocol)
    path = pickled(tmp_path / "bad.npy", data)
    with pytest.raises(ArtifactError, match=r"bad\.npy: expected arrays, .* found '(posix\.mkdir|numpy|_codecs|copy)"):
        read_annotations(path)
    assert not trap.exists()
    pickle.loads(data)  # noqa: S301 - it would
    assert trap.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("functools", "partial"),
    ],
)
def test_nothing_but_arrays_can_be_named(tmp_path: Path, module: str, name: str) -> None:
    data = (
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93."
    )
    with pytest.raises(ArtifactError, match=f"found '{module}.{name}', which it wants called"):
        read_annotations(pickled(tmp_path / "bad.npy", data))


@given(st.binary(max_size=60))
def test_damage_is_an_error_of_the_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    for path in (pickled(folder / "a.npy", data), folder / "b.npy"):
        path.exists() or path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"[ab]\.npy"):
            read_annotations(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "KeyError: 'language'"),
        ([1, 2], r"an array \[2\] of object"),
        (content(language={"ann": []}), "ValueError: zip"),
        (content(language={"ann": [5]}), "an instruction and a task are text, found 5"),
        (content(info={"indx": [(3,)]}), "not enough values to unpack"),
        (content(info={"indx": [(9, 3)]}), "a first frame and a later end, found 9 and 3"),
        (content(info={"indx": [(-1, 3)]}), "found -1 and 3"),
        (content(language={"ann": [], "task": []}, info={"indx": []}), "expected annotated windows, found none"),
    ],
)
def test_another_content_is_an_error(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_annotations(save(tmp_path / "a.npy", value))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no such file: .*a\.npy"):
        read_annotations(tmp_path / "a.npy")
