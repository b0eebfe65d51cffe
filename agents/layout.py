"""What a model, and the state of a partition, must have been made for to be of use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agents.encode import feature_names
from agents.snapshot import State
from agents.window import window_shape
from detectors.model import Model
from detectors.windows import Layout
from schemas.config import Route, Stream
from schemas.errors import ArtefactError, DataError

STATE_VERSION = 3
"""Version of a partition's state, and of how it is packed; names of checkpoints tell it."""

_DEPENDS_ON = ("key", "id", "time", "derive", "window", "lateness")
_NOT_OF_STATE = ("required", "sensitive")
_ROUTES = "detectors"
_MOST_SHOWN = 5


def route_layout(name: str, stream: Stream, route: Route) -> Layout:
    """Describe the windows of a route, so that a model for other ones is refused."""
    steps, numbers, categories = window_shape(stream, *feature_names(stream))
    transforms = ",".join(f"{n}:{f.transform}" for n, f in stream.fields.items())
    window = f"{stream.window!r} key={stream.key} {transforms}"
    return Layout(name, route.label, steps, tuple(numbers), tuple(categories), window)


def state_layout(name: str, stream: Stream) -> dict[str, Any]:
    """Describe what the state of a partition depends on, as the pipeline file says it.

    The models are named apart from it, and what only says how to read, judge or publish is left
    out: alerts, drift and formats may change while the state goes on.
    """
    told: dict[str, Any] = {what: _plain(getattr(stream, what)) for what in _DEPENDS_ON}
    fields = {n: _plain(f) for n, f in stream.fields.items()}
    for field in fields.values():
        for what in _NOT_OF_STATE:
            field.pop(what)
    return {
        "version": STATE_VERSION,
        "stream": name,
        "source": {"topic": stream.source.topic},
        **told,
        "fields": fields,
        "order of fields": list(fields),
        _ROUTES: {route.label: _plain(route.when) for route in stream.routes},
    }


def check_state(
    state: State, layout: Mapping[str, Any], models: Mapping[str, Model]
) -> frozenset[str]:
    """Refuse a state that was made for another layout or with other models.

    Returns
    -------
    frozenset
        The routes that go on; those that were added since, or get other windows, begin anew.

    Raises
    ------
    DataError
        Naming what differs in the layout.
    ArtefactError
        Naming the route and its models.
    """
    stream, made_for = layout["stream"], state["layout"]
    routes, before = layout[_ROUTES], made_for.get(_ROUTES) or {}
    here = {name: value for name, value in layout.items() if name != _ROUTES}
    there = {name: value for name, value in made_for.items() if name != _ROUTES}
    found = list(_differences(there, here, f"streams.{stream}"))
    if found:
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        msg = (
            f"the state of a partition of {stream} was made for another pipeline file "
            f"({'; '.join(found[:_MOST_SHOWN])}{more}); the partition must begin anew"
        )
        raise DataError(msg)
    kept = frozenset(label for label, when in routes.items() if before.get(label) == when)
    for route in kept & state["models"].keys():
        given = models[route].model_id if route in models else None
        if given != state["models"][route]:
            msg = (
                f"the state of a partition of {stream}/{route} was made with model "
                f"{state['models'][route]}, not {given}; load that model, or let the partition "
                "begin anew"
            )
            raise ArtefactError(msg)
    return kept


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=int)  # durations


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    """Name the paths at which two trees differ, with both values."""
    if before == now:
        return
    if not (isinstance(before, dict) and isinstance(now, dict)):
        yield f"{path}: {_shown(before)} → {_shown(now)}"
        return
    for name in dict.fromkeys([*before, *now]):
        yield from _differences(before.get(name), now.get(name), f"{path}.{name}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
