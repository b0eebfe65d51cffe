"""Messages on the wire: what was ever published stays readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import messages
from schemas.errors import ConfigError
from schemas.messages import MESSAGES

GOLDEN = Path(__file__).parent / "golden"


def test_every_message_has_a_golden_file() -> None:
    assert {path.name.split(".")[0] for path in GOLDEN.iterdir()} == set(MESSAGES)


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_golden_files_are_read_and_written_alike(path: Path) -> None:
    """Fields that a message has got since then have their defaults."""
    data, kind = path.read_bytes(), MESSAGES[path.name.split(".")[0]]
    written = msgspec.json.decode(messages.encode(messages.decode(data, kind)))
    golden = msgspec.json.decode(data)
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    assert written == {**{x: defaults[x] for x in written.keys() - golden.keys()}, **golden}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_newer_version_is_refused(name: str) -> None:
    document: dict[str, Any] = msgspec.json.decode((GOLDEN / f"{name}.v1.json").read_bytes())
    document["schema_version"] = messages.SCHEMA_VERSION + 1
    with pytest.raises(msgspec.ValidationError, match="schema_version"):
        messages.decode(msgspec.json.encode(document), MESSAGES[name])


@pytest.mark.parametrize("name", MESSAGES)
def test_json_schema_names_every_field(name: str) -> None:
    schema = messages.json_schema(name)
    fields = {field.name for field in msgspec.structs.fields(MESSAGES[name])}
    assert set(schema["$defs"][name]["properties"]) == fields


def test_an_unknown_message_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ScoredEvent'"):
        messages.json_schema("ScoreEvent")
