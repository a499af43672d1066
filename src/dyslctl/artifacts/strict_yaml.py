"""YAML without surprises: no tags, no duplicate keys, ``1e-4`` is a number, dates stay text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dyslctl.artifacts.files import read_text
from dyslctl.errors import ArtifactError


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, minus its dates, plus an error for a key given twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Mappings as blocks, lists of plain values on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flat = all(not isinstance(item, (dict, list)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 reads 1e-4 as text because the dot is missing; nobody who writes it means text. The dumper knows it too, and
# puts a text that looks like it in quotes.
for _side in (_StrictLoader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in ``text``.

    Raises:
        ArtifactError: If it is not YAML, gives a key twice, or is not a mapping.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ArtifactError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{where}: expected a mapping, found {type(value).__name__}")
    return value


def read_yaml(path: Path, hint: str | None = None) -> dict[str, Any]:
    """The mapping in the file ``path``.

    Raises:
        ArtifactError: If it cannot be read or parsed.
    """
    return parse_yaml(read_text(path, hint), str(path))


def dump_yaml(value: dict[str, Any], header: str = "") -> str:
    """``value`` as YAML in the order given, below ``header`` as comment lines."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
