"""A pipeline file either gives a complete configuration or an error that says what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from schemas.parse import load_pipeline, parse_pipeline
from tests.pipelines import document

EXAMPLES = sorted(Path("examples").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "size"), [("512KiB", 2**19), ("1.5MiB", 3 * 2**19), ("2GiB", 2**31), ("1TiB", 2**40)]
)
def test_sizes(text: str, size: int) -> None:
    made = parse_pipeline({**document(), "state": {"memory": text, "spill": "/var/tmp"}})
    assert (made.state.memory, made.state.spill) == (size, "/var/tmp")


@pytest.mark.parametrize("size", ["512MB", "2 gigabytes", 1024, "0MiB", "-1GiB", None])
def test_what_is_no_size_is_named(size: object) -> None:
    wanted = r"state\.memory: expected a size such as 512KiB, 512MiB or 2GiB, got "
    with pytest.raises(ConfigError, match=wanted):
        parse_pipeline({**document(), "state": {"memory": size}})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_valid(path: Path) -> None:
    assert load_pipeline(path).streams


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": {"size": "big"}}, 'streams.payments.window.size: expected int ≥ 1, got "big"'),
        ({"window": {"size": 0}}, "streams.payments.window.size: expected int ≥ 1, got 0"),
        ({"window": {"siz": 3}}, "streams.payments.window.siz: unknown key (did you mean 'size'?)"),
        ({"windw": {}}, "streams.payments.windw: unknown key (did you mean 'window'?)"),
        (
            {"window": {"kind": "slide"}},
            "window.kind: expected sliding | tumbling | hopping | sess",
        ),
        ({"source": {"topic": "x", "format": "xml"}}, 'expected json | arrow | lines, got "xml"'),
        ({"source": {}}, "streams.payments.source: missing key 'topic'"),
        ({"fields": {"a": "numbr"}}, "streams.payments.fields.a.type: expected number | category"),
        ({"alerts": {"incident_gap": "5 parsecs"}}, "expected a duration such as 250ms"),
        ({"detectors": []}, "streams.payments.detectors: expected list of length ≥ 1"),
        ({"window": {"kind": "hopping", "length": "5m", "hop": "2m"}}, "must divide the length"),
        ({"key": "none", "window": {"kind": "session"}}, "sessions need a key"),
        (
            {
                "window": {"kind": "tumbling", "length": "5m"},
                "detectors": [{"detector": "pca", "when": {"country": ["AT"]}}],
            },
            "detectors[0].when: windows of aggregates have no last record",
        ),
        ({"lateness": "5s"}, "streams.payments.lateness: sliding windows follow arrival order"),
        ({"late": "dead_letter"}, "streams.payments.late: no record is late for sliding windows"),
        (
            {"window": {"kind": "session"}, "late": "drop"},
            'streams.payments.late: expected count | dead_letter, got "drop"',
        ),
        (
            {"window": {"kind": "session"}, "lateness": "5s", "derive": ["gap"]},
            "streams.payments.derive: refers to the record that arrived before",
        ),
        (
            {
                "window": {"kind": "session"},
                "lateness": "5s",
                "fields": {"a": {"type": "number", "transform": "rate"}},
            },
            "streams.payments.fields.a.transform: refers to the record that arrived before",
        ),
        ({"detectors": ["pca", "pca"]}, "'pca' stands twice"),
        ({"fields": {"c": {"type": "category", "transform": "log1p"}}}, "only numbers have one"),
        ({"source": {"topic": "x", "format": "lines", "pattern": "(?P<card>a)"}}, "no group named"),
    ],
)
def test_errors_name_path_value_and_way_out(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(document(**changes))
    assert message in str(caught.value)


def test_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    text = {**document(), "kafka": {"settings": {"sasl_plain_password": "${EDDY_TEST_SECRET}"}}}
    with pytest.raises(ConfigError, match="EDDY_TEST_SECRET is not set"):
        parse_pipeline(text)
    monkeypatch.setenv("EDDY_TEST_SECRET", "s3cret")
    found = parse_pipeline({**document(), "kafka": {"settings": {"a": "${EDDY_TEST_SECRET}"}}})
    assert found.kafka.settings == {"a": "s3cret"}


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\nstreams: {}\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        load_pipeline(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_pipeline(tmp_path / "nowhere.yaml")
