"""Reading a pipeline file, with errors that name the path, the value and the way out."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from schemas import config
from schemas.config import Duration, Pipeline, Silence, Size, Stream
from schemas.errors import ConfigError
from schemas.nearest import nearest

__all__ = ["load_pipeline", "parse_pipeline"]

_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_WINDOWS: dict[str, type[msgspec.Struct]] = {
    "sliding": config.Sliding,
    "tumbling": config.Tumbling,
    "hopping": config.Hopping,
    "session": config.Session,
}
SHORTEST_SILENCE, LONGEST_SILENCE = _UNITS["s"], 30 * _UNITS["d"]
S = TypeVar("S")


def load_pipeline(path: str | Path) -> Pipeline:
    """Read the pipeline file ``path`` (YAML).

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or says something that cannot be.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read ({error}); give the path of a pipeline file"
        raise ConfigError(msg) from error
    try:
        document = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        msg = f"{path}: not valid YAML: {_yaml_problem(error)}"
        raise ConfigError(msg) from None  # it quotes the file, which may hold a password
    return parse_pipeline(document)


def parse_pipeline(document: object) -> Pipeline:
    """Check a pipeline document and fill in its defaults.

    Raises
    ------
    ConfigError
        Naming the path of the offending value, the value, and what is expected.
    """
    if not isinstance(document, dict) or "streams" not in document:
        msg = "pipeline: expected a mapping with the key 'streams'; see the examples"
        raise ConfigError(msg)
    document = {k: v for k, v in document.items() if not str(k).startswith("x-")}
    streams = document["streams"]
    if not isinstance(streams, dict) or not streams:
        msg = f"streams: expected a mapping of at least one stream, got {_shown(streams)}"
        raise ConfigError(msg)
    document["streams"] = {str(k): _expand_shorthands(v) for k, v in streams.items()}
    pipeline = _convert(document, Pipeline)
    for name, stream in pipeline.streams.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            msg = f"streams.{name}: names may hold letters, digits, '_' and '-' only; rename it"
            raise ConfigError(msg)
        _check_stream(stream, f"streams.{name}")
    settings = {
        k: _from_environment(v, f"kafka.settings.{k}") for k, v in pipeline.kafka.settings.items()
    }
    kafka = msgspec.structs.replace(pipeline.kafka, settings=settings)
    return msgspec.structs.replace(pipeline, kafka=kafka)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say what is wrong and where, without a word of the file."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "it holds characters that YAML does not allow"
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    said = ", ".join(filter(None, [error.context, error.problem]))
    if not isinstance(error, _GivenTwice):
        said = re.sub(r"'[^']{2,}'", "…", said)  # a password after * or ! is taken for a name
    return said + where


class _GivenTwice(yaml.constructor.ConstructorError):
    """A key stands twice."""


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader for which a key given twice is an error, not a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        twice = {k for k in keys if keys.count(k) > 1}
        if twice:
            raise _GivenTwice(
                None, None, f"key {sorted(map(str, twice))[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _expand_shorthands(stream: object) -> object:
    """``amount: number`` → ``amount: {type: number}``, ``[lstm_ae]``, ``emit: all``, no kind."""
    if not isinstance(stream, dict):
        return stream
    stream = dict(stream)
    if isinstance(stream.get("fields"), dict):
        stream["fields"] = {
            str(k): {"type": v} if isinstance(v, str) else v for k, v in stream["fields"].items()
        }
    if isinstance(stream.get("detectors"), list):
        stream["detectors"] = [
            {"detector": v} if isinstance(v, str) else v for v in stream["detectors"]
        ]
    if isinstance(stream.get("emit"), str):
        stream["emit"] = {"mode": stream["emit"]}
    alerts = stream.get("alerts")
    if isinstance(alerts, dict) and isinstance(alerts.get("silence"), str):
        stream["alerts"] = {**alerts, "silence": {"stream": alerts["silence"]}}
    if isinstance(stream.get("window"), dict):
        stream["window"] = {"kind": "sliding", **stream["window"]}
    if "key" in stream and stream["key"] is None:
        stream["key"] = "none"
    return stream


def _duration(value: object) -> Duration:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", str(value).strip())
    if not match:
        msg = "Expected a duration such as 250ms, 30s, 15m, 12h or 7d"
        raise ValueError(msg)
    return Duration(round(float(match[1]) * _UNITS[match[2]]))


def _size(value: object) -> Size:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]iB)", str(value).strip())
    size = Size(round(float(match[1]) * _SIZES[match[2]])) if match else Size(0)
    if not size:
        msg = "Expected a size such as 512KiB, 512MiB or 2GiB"
        raise ValueError(msg)
    return size


def _hook(kind: type, value: object) -> object:
    if kind is Duration:
        return _duration(value)
    if kind is Size:
        return _size(value)
    raise NotImplementedError


def _convert(document: object, kind: type[S]) -> S:
    problem = _problem(document, kind, "")
    if problem:
        raise ConfigError(problem)
    return msgspec.convert(document, kind, dec_hook=_hook)


def _problem(value: Any, kind: Any, path: str) -> str | None:
    """Find the innermost value that does not convert, and say what is wrong with it."""
    if get_origin(kind) is Annotated and not _is_leaf(get_args(kind)[0]):
        found = _problem(value, get_args(kind)[0], path)
        if found:
            return found
    if kind == config.Window and isinstance(value, dict):
        return _window_problem(value, path)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        found = _struct_problem(value, kind, path)
        if found:
            return found
    for item, of, where in _items(value, kind, path):
        found = _problem(item, of, where)
        if found:
            return found
    return _leaf_problem(value, kind, path)


def _items(value: Any, kind: Any, path: str) -> list[tuple[Any, Any, str]]:
    """List the elements of a mapping or a list with their type and path."""
    if get_origin(kind) is dict and isinstance(value, dict):
        return [(item, get_args(kind)[1], _join(path, key)) for key, item in value.items()]
    if get_origin(kind) is list and isinstance(value, list):
        return [(item, get_args(kind)[0], f"{path}[{i}]") for i, item in enumerate(value)]
    return []


def _window_problem(value: dict[str, Any], path: str) -> str | None:
    tag = value.get("kind")
    if not isinstance(tag, str) or tag not in _WINDOWS:
        return f"{path}.kind: expected {' | '.join(_WINDOWS)}, got {_shown(tag)}"
    rest = {k: v for k, v in value.items() if k != "kind"}
    found = _struct_problem(rest, _WINDOWS[tag], path)
    return found or _leaf_problem(value, _WINDOWS[tag], path)


def _struct_problem(value: dict[str, Any], kind: type[msgspec.Struct], path: str) -> str | None:
    hints = get_type_hints(kind, include_extras=True)
    names = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for key, item in value.items():
        if key not in names:
            hint = nearest(str(key), names)
            return f"{_join(path, key)}: unknown key{hint}; it takes {', '.join(names)}"
        found = _problem(item, hints[names[key].name], _join(path, key))
        if found:
            return found
    for name, info in names.items():
        if info.required and name not in value:
            return f"{path or 'pipeline'}: missing key {name!r}; add it"
    return None


def _leaf_problem(value: object, kind: Any, path: str) -> str | None:
    try:
        msgspec.convert(value, kind, dec_hook=_hook)
    except msgspec.ValidationError as error:
        wanted = str(error).split(" - at `")[0].split(", got `")[0]
        wanted = wanted.replace("Expected ", "expected ").replace("`", "").replace(">=", "≥")
        wanted = wanted.replace("array", "list").replace("object", "mapping")
        if wanted.startswith("Invalid enum value"):
            wanted = f"expected {' | '.join(map(str, _choices(kind)))}"
        elif wanted == "expected int" and get_origin(kind) is Annotated:
            limits = [m for m in get_args(kind)[1:] if isinstance(m, msgspec.Meta)]
            wanted += "".join(f" ≥ {m.ge}" for m in limits if m.ge is not None)
        shown = "a value that is not shown" if _is_secret(path) else _shown(value)
        return f"{path or 'pipeline'}: {wanted}, got {shown}"
    return None


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(c for part in get_args(kind) for c in _choices(part))
    return get_args(kind)


def _is_leaf(kind: Any) -> bool:
    return get_origin(kind) not in (list, dict)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) < 60 else f'"{value[:57]}…"'
    if isinstance(value, dict):
        return f"a mapping of {', '.join(map(str, value))}"[:80]
    return "nothing" if value is None else str(value)[:80]


def _is_secret(path: str) -> bool:
    """Tell whether a value may hold a password or key, or is one."""
    return path in ("", "kafka", "storage") or path.startswith("kafka.settings")


def _from_environment(value: str, path: str) -> str:
    def look_up(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            msg = f"{path}: environment variable {match[1]} is not set; set it or write the value"
            raise ConfigError(msg)
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", look_up, value)


def _check_stream(stream: Stream, path: str) -> None:
    """Check what a type cannot say: the parts of a stream must fit each other."""
    for name, field in stream.fields.items():
        if field.transform != "none" and field.type != "number":
            msg = f"{path}.fields.{name}.transform: only numbers have one, {name} is a {field.type}"
            raise ConfigError(msg)
        if name in (stream.key, stream.id):
            msg = f"{path}.fields.{name}: is the key or id and cannot be a feature too; remove it"
            raise ConfigError(msg)
    labels = [route.label for route in stream.routes]
    for label in labels:
        if labels.count(label) > 1:
            msg = f"{path}.detectors: {label!r} stands twice; give one of them another 'name'"
            raise ConfigError(msg)
    for index, route in enumerate(stream.routes):
        for name in route.when:
            if name not in stream.of_type("category"):
                msg = (
                    f"{path}.detectors[{index}].when.{name}: not a category field"
                    f"{nearest(name, stream.of_type('category'))}; route on one of those"
                )
                raise ConfigError(msg)
    if stream.alerts.max_age is not None and stream.alerts.max_age < 1:
        msg = f"{path}.alerts.max_age: every incident would be stale; give a time, or remove it"
        raise ConfigError(msg)
    _check_silence(stream, path)
    _check_pattern(stream, path)
    _check_window(stream, path)


def _check_silence(stream: Stream, path: str) -> None:
    silence, where = stream.alerts.silence, f"{path}.alerts.silence"
    for name, limit in (("stream", silence.stream), ("key", silence.key)):
        if limit is not None and not SHORTEST_SILENCE <= limit <= LONGEST_SILENCE:
            msg = f"{where}.{name}: give a time between 1s and 30d"
            raise ConfigError(msg)
    if silence.key is not None and stream.key == "none":
        msg = f"{where}.key: the stream has no keys; remove it, or set 'key'"
        raise ConfigError(msg)
    if silence != Silence() and config.SILENCE in [route.label for route in stream.routes]:
        msg = f"{path}.detectors: {config.SILENCE!r} names incidents of silence; choose another"
        raise ConfigError(msg)


def _check_pattern(stream: Stream, path: str) -> None:
    where, source = f"{path}.source.pattern", stream.source
    if source.format != "lines":
        if source.pattern is not None:
            msg = f"{where}: only format 'lines' has one, the format is {source.format!r}"
            raise ConfigError(msg)
        return
    try:
        groups = set(re.compile(source.pattern or "").groupindex)
    except re.error as error:
        msg = f"{where}: not a regular expression: {error}"
        raise ConfigError(msg) from error
    needed = {*stream.fields, stream.key, stream.id, stream.time.field}
    if isinstance(stream.window, config.Session):
        needed.add(stream.window.id)
    missing = sorted(n for n in needed - groups - {"none", None} if n)
    if missing:
        msg = f"{where}: no group named {missing[0]!r}; write (?P<{missing[0]}>…) into it"
        raise ConfigError(msg)


def _check_window(stream: Stream, path: str) -> None:
    window = stream.window
    if isinstance(window, config.Hopping) and (window.hop < 1 or window.length % window.hop):
        msg = f"{path}.window.hop: must divide the length evenly; choose another hop or length"
        raise ConfigError(msg)
    if isinstance(window, config.Tumbling | config.Hopping) and window.length < 1:
        msg = f"{path}.window.length: must be longer than nothing"
        raise ConfigError(msg)
    routed = [i for i, route in enumerate(stream.routes) if route.when]
    if isinstance(window, config.Tumbling | config.Hopping) and routed:
        msg = (
            f"{path}.detectors[{routed[0]}].when: windows of aggregates have no last record to "
            "route by; remove it, or use sliding or session windows"
        )
        raise ConfigError(msg)
    if isinstance(window, config.Sliding) and stream.lateness:
        msg = f"{path}.lateness: sliding windows follow arrival order; remove it or use tumbling"
        raise ConfigError(msg)
    if isinstance(window, config.Sliding) and stream.late != "count":
        msg = f"{path}.late: no record is late for sliding windows; remove it or use tumbling"
        raise ConfigError(msg)
    derived = [f"fields.{n}.transform" for n, f in stream.fields.items() if f.refers_back]
    derived += ["derive"] if "gap" in stream.derive else []
    if stream.lateness and derived:
        msg = (
            f"{path}.{derived[0]}: refers to the record that arrived before, which late records "
            "falsify; remove it, or remove 'lateness'"
        )
        raise ConfigError(msg)
    if stream.key == "none" and isinstance(window, config.Session):
        msg = f"{path}.window: sessions need a key; set 'key' to the field that names the entity"
        raise ConfigError(msg)
