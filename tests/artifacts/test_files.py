from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.artifacts import files as module
from dyslctl.artifacts.files import (
    append_jsonl,
    atomic_folder,
    atomic_path,
    atomic_write,
    hash_files,
    make_folder,
    read_json,
    read_jsonl,
    read_text,
    replace_folder,
    sha256,
    write_json,
    write_jsonl,
)
from dyslctl.errors import ArtifactError, EnvironmentMismatch


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_creates_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "alt")
    atomic_write(path, "grün")
    assert path.read_bytes() == "grün".encode()
    assert names(path.parent) == ["b.txt"]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    atomic_write(path, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(EnvironmentMismatch, match="No space left") as caught:
        atomic_write(path, "new")
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None and "disk space" in caught.value.hint
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_failing_body_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "plot.png") as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_a_real_file_size_limit_is_a_clear_error(tmp_path: Path) -> None:
    """The kernel itself refuses: a subprocess whose files may not exceed 1 KiB."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from dyslctl.artifacts.files import atomic_write; from dyslctl.errors import EnvironmentMismatch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try: atomic_write(Path(sys.argv[1]), b'x' * 4096)\n"
        "except EnvironmentMismatch as error: sys.exit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "big")], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_unwritable_folders(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        make_folder(tmp_path / parent / "runs")
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        atomic_write(tmp_path / parent / "runs" / "x", "text")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        atomic_write(tmp_path, "text")
    with pytest.raises(ArtifactError, match="expected a file, found a folder"):
        read_text(tmp_path)


def test_missing_file_and_bad_encoding(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file") as caught:
        read_text(tmp_path / "nothing", hint="make it")
    assert caught.value.exit_code == 4 and caught.value.hint == "make it"
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        read_text(tmp_path / "latin")


def test_atomic_folder_replaces_the_whole_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "bundle") as folder:
            (folder / name).write_text(name)
    assert names(tmp_path / "bundle") == ["new"]
    assert names(tmp_path) == ["bundle"]


def test_atomic_folder_keeps_the_old_one_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "bundle") as folder:
        (folder / "old").write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(EnvironmentMismatch), atomic_folder(tmp_path / "bundle") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path / "bundle") == ["old"]
    assert names(tmp_path) == ["bundle"]


def test_json_is_an_object_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1.5})
    assert read_json(path) == {"a": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1.5}
    for text, message in (("[1]", "expected a JSON object, found list"), ("{", "not valid JSON")):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=message):
            read_json(path)


def test_sha256_of_abc(tmp_path: Path) -> None:
    atomic_write(tmp_path / "abc", "abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1


ROWS = st.lists(
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5) | st.none(), max_size=3), max_size=5
)


@given(rows=ROWS, cut=st.integers(min_value=1, max_value=30))
def test_a_log_cut_anywhere_in_its_last_line_keeps_all_others(
    rows: list[dict[str, object]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "rows.jsonl"
    written: list[dict[str, object]] = [*rows, {"last": "row"}]
    for row in written:
        append_jsonl(path, row)
    assert read_jsonl(path) == written
    last = len(b'{"last":"row"}\n')
    os.truncate(path, path.stat().st_size - min(cut, last))
    # Without its newline alone the row is whole: other tools end files like that.
    assert read_jsonl(path) == (written if cut == 1 else rows)


def test_a_damaged_middle_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a":1}\n{"a":\n{"a":3}\n')
    with pytest.raises(ArtifactError, match="line 2 is damaged"):
        read_jsonl(path)
    path.write_text('{"a":1}\n7\n')
    with pytest.raises(ArtifactError, match="line 2: expected a JSON object, found int"):
        read_jsonl(path)


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_failed_append_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(EnvironmentMismatch, match="No space left"):
            append_jsonl(path, {"a": 2})
    append_jsonl(path, {"a": 3})
    assert path.read_bytes() == b'{"a":1}\n{"a":3}\n'


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("kept")
    with pytest.raises(OSError):
        replace_folder(tmp_path / "missing", tmp_path / "old")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old", "old/file"]


def test_a_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    found = hash_files(tmp_path, ["a", "b"])
    assert len(found) == 64 and found == hash_files(tmp_path, ["b", "a"])
    assert found != hash_files(tmp_path, ["a"])
    (tmp_path / "b").write_text("z")
    assert found != hash_files(tmp_path, ["a", "b"])
    with pytest.raises(ArtifactError, match="no such file"):
        hash_files(tmp_path, ["c"])


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit: first and last bytes count, and the size."""
    monkeypatch.setattr(module, "_HASHED_WHOLE", 1000)
    monkeypatch.setattr(module, "_SAMPLES", 4)
    monkeypatch.setattr(module, "_SAMPLE_SIZE", 16)
    seen = set()
    for offset in (None, 0, 500, -1):
        content = bytearray(2000)
        if offset is not None:
            content[offset] ^= 1
        (tmp_path / "weights").write_bytes(content)
        seen.add(hash_files(tmp_path, ["weights"]))
    assert len(seen) == 3, "what lies between two samples does not count"
