from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dyslctl.artifacts.strict_yaml import dump_yaml, parse_yaml, read_yaml
from dyslctl.errors import ArtifactError

# PyYAML itself folds the exotic line breaks (NEL, LS, PS) of unquoted text.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=8)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
@example({"0E0": "1e-4"})
def test_what_is_dumped_is_read_back(value: dict[str, object]) -> None:
    assert parse_yaml(dump_yaml(value, "a header\nof two lines"), "x") == value


def test_numbers_without_a_dot_are_numbers_and_dates_are_text() -> None:
    assert parse_yaml("a: 1e-4\nb: -2E+3\nc: 2026-01-31\nd: 10\n", "x") == {
        "a": 1e-4,
        "b": -2000.0,
        "c": "2026-01-31",
        "d": 10,
    }


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    with pytest.raises(ArtifactError, match=r"profile.yaml is not valid YAML: key 'k' is given twice\n.*line 3"):
        parse_yaml("guidance:\n  k: 5\n  k: 6\n", "profile.yaml")


@pytest.mark.parametrize(
    "text", ["a: [1", "!!python/object/apply:os.system ['true']", "? [1]\n: 2", "a: &x [*x]\nb: *y"]
)
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="x is not valid YAML"):
        parse_yaml(text, "x")


def test_the_top_level_is_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ArtifactError, match=r"list.yaml: expected a mapping, found list"):
        read_yaml(tmp_path / "list.yaml")


def test_plain_lists_stand_on_one_line() -> None:
    assert dump_yaml({"static_layers": [0, 5], "inner": {"k": 5}}, "Made by: me") == (
        "# Made by: me\nstatic_layers: [0, 5]\ninner:\n  k: 5\n"
    )
