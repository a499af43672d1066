"""A file with a schema: strict to read, with errors that name the key, and a way up from older versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dyslctl.errors import ArtifactError
from dyslctl.plugins import did_you_mean

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the content of one schema version to the next."""


class Part(BaseModel):
    """A part of a document: immutable, no unknown keys, no silent conversions, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Document(Part):
    """The content of one file.

    Attributes:
        SCHEMA: ``"<name>/<version>"``, the first key of the file.
        MIGRATIONS: Version -> how to get from it to the next one.
    """

    SCHEMA: ClassVar[str]
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {}

    @classmethod
    def parse(cls, raw: Mapping[str, Any], where: str) -> Self:
        """Check ``raw``, the parsed content of the file ``where``.

        Raises:
            ArtifactError: If the schema is another or a newer one, a key is unknown or missing, or a value is wrong;
                all wrong keys are listed at once.
        """
        content = _upgrade(dict(raw), cls, where)
        try:
            # Through JSON, because pydantic's strict mode takes a list for a tuple only there.
            return cls.model_validate_json(json.dumps(content, default=str))
        except ValidationError as error:
            raise ArtifactError(f"{where} is not a valid {cls.SCHEMA}:\n{explain(error, cls)}") from error

    def dump(self) -> dict[str, Any]:
        """The file's content as plain values, schema first."""
        return {"schema": self.SCHEMA, **self.model_dump(mode="json")}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each wrong key: its path, what was expected, what was found."""
    return "\n".join(f"  {_describe(dict(item), model)}" for item in error.errors())


def _describe(item: dict[str, Any], model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key.{did_you_mean(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{path}: missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" + (f" (found {item['input']!r})" if not isinstance(item["input"], dict) else "")


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that ``model`` knows at ``path``."""
    for key in path:
        field = model.model_fields.get(str(key))
        inner = [kind for kind in _types(field.annotation) if issubclass(kind, BaseModel)] if field else []
        model = inner[0] if inner else model
    return list(model.model_fields)


def _types(annotation: Any) -> list[type]:
    """The classes inside an annotation: ``Part | None`` -> ``[Part, NoneType]``."""
    inner = [kind for argument in get_args(annotation) for kind in _types(argument)]
    return inner or ([annotation] if isinstance(annotation, type) else [])


def _upgrade(content: dict[str, Any], document: type[Document], where: str) -> dict[str, Any]:
    name, current = split_schema(document.SCHEMA)
    found = content.pop("schema", None)
    try:
        found_name, version = split_schema(str(found))
    except ValueError:
        found_name, version = "", 0
    if found_name != name:
        raise ArtifactError(f"{where}: expected schema {document.SCHEMA}, found {found!r}")
    if version > current:
        raise ArtifactError(
            f"{where} was made by a newer dyslctl: its schema is {found}, this version reads up to {document.SCHEMA}",
            hint="pip install --upgrade dyslctl",
        )
    for old in range(version, current):
        if old not in document.MIGRATIONS:
            raise ArtifactError(f"{where}: schema {found} is no longer read", hint="make the file again")
        content = document.MIGRATIONS[old](content)
    return content


def split_schema(schema: str) -> tuple[str, int]:
    """``"dyslctl.bundle/1"`` -> ``("dyslctl.bundle", 1)``.

    Raises:
        ValueError: If ``schema`` has no version.
    """
    name, _, version = schema.rpartition("/")
    return name, int(version)
