from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.cli.config import Config, PruningConfig, flags, merge, parse_set, read_config
from dyslctl.errors import ConfigError
from dyslctl.pruning.settings import PruningSettings


def test_later_layers_win_and_leave_the_rest() -> None:
    config = merge(
        [
            ("run", {"suite": "tabletop_object", "eval": {"episodes": 10, "split": "tune"}}),
            ("file", {"eval": {"episodes": 20}}),
            parse_set("eval.episodes=30"),
            flags(eval__episodes=40, eval__workers=None, suite=None),
        ]
    )
    assert (config.eval.episodes, config.eval.split, config.eval.workers) == (40, "tune", 1)
    assert config.suite == "tabletop_object"


def test_no_layers_are_the_defaults() -> None:
    assert merge([]) == Config()


def test_pruning_is_set_as_in_the_library() -> None:
    assert Config().pruning.settings() == PruningSettings()
    assert set(PruningConfig.model_fields) == {field.name for field in fields(PruningSettings)}
    config = merge([parse_set("pruning.bucket=4"), parse_set("pruning.keep=0.25")])
    assert config.pruning.settings() == PruningSettings(keep=0.25, bucket=4)


def test_an_unknown_key_names_the_layer_and_the_nearest_key() -> None:
    with pytest.raises(ConfigError) as raised:
        merge([parse_set("eval.episods=3")])
    assert "--set eval.episods=3" in raised.value.message
    assert "eval.episods: unknown key. Did you mean 'episodes'?" in raised.value.message
    assert raised.value.exit_code == 2


def test_a_wrong_type_says_what_was_found() -> None:
    with pytest.raises(ConfigError, match=r"eval\.episodes: .*integer.*found 'many'"):
        merge([parse_set("eval.episodes=many")])


def test_every_wrong_key_of_a_layer_is_listed() -> None:
    with pytest.raises(ConfigError) as raised:
        merge([("file", {"profile": {"ratio": 2.0}, "suit": "tabletop_object"})])
    assert "profile.ratio" in raised.value.message
    assert "suit: unknown key. Did you mean 'suite'?" in raised.value.message


@pytest.mark.parametrize("assignment", ["eval.episodes", "=3", "eval..episodes=3", ".a=1"])
def test_set_wants_a_dotted_key_and_a_value(assignment: str) -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        parse_set(assignment)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-4", 1e-4), ("true", True), ("[a, b]", ["a", "b"]), ("word", "word"), ("", None), ("a=b", "a=b")],
)
def test_set_values_are_yaml(text: str, value: object) -> None:
    assert parse_set(f"a.b={text}")[1] == {"a": {"b": value}}


def test_a_set_value_that_is_not_yaml_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_set("a=[1")


@given(st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=4), st.integers())
def test_set_nests_to_any_depth(path: list[str], value: int) -> None:
    where, settings = parse_set(f"{'.'.join(path)}={value}")
    found: object = settings
    for key in path:
        assert isinstance(found, dict) and list(found) == [key]
        found = found[key]
    assert found == value
    assert where.startswith("--set ")


def test_a_missing_config_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "none.yaml")


def test_the_dumped_configuration_reads_back_the_same() -> None:
    config = merge([parse_set("eval.methods=[full, dysl]"), parse_set("model.options={unnorm_key: tabletop}")])
    assert merge([("dump", config.model_dump(mode="json"))]) == config
