"""What a model, and the state of a partition, must have been made for to be of use."""

from __future__ import annotations

from collections.abc import Mapping

from agents.encode import feature_names
from agents.snapshot import State
from agents.window import window_shape
from detectors.model import Model
from detectors.windows import Layout
from schemas.config import Route, Stream
from schemas.errors import ArtefactError, DataError

STATE_VERSION = 3
_DEPENDS_ON = (
    *("source", "key", "id", "duplicates_within", "time", "fields", "derive", "window"),
    "lateness",
)


def route_layout(name: str, stream: Stream, route: Route) -> Layout:
    """Describe the windows of a route, so that a model for other ones is refused."""
    steps, numbers, categories = window_shape(stream, *feature_names(stream))
    transforms = ",".join(f"{n}:{f.transform}" for n, f in stream.fields.items())
    window = f"{stream.window!r} key={stream.key} {transforms}"
    return Layout(name, route.label, steps, tuple(numbers), tuple(categories), window)


def state_layout(name: str, stream: Stream) -> dict[str, str]:
    """Describe what the state of a partition depends on, so that one of another is refused.

    The models are named apart from it, and what only says how to judge is left out: alerts and
    drift may change while the state goes on.
    """
    parts = {what: repr(getattr(stream, what)) for what in _DEPENDS_ON}
    routes = {route.label: route.when for route in stream.routes}
    return {"version": str(STATE_VERSION), "stream": name, **parts, "detectors": repr(routes)}


def check_state(state: State, layout: Mapping[str, str], models: Mapping[str, Model]) -> None:
    """Refuse a state that was made for another layout or with other models.

    Raises
    ------
    DataError
        Naming what differs in the layout.
    ArtefactError
        Naming the route and its models.
    """
    for name, wanted in layout.items():
        made_for = state["layout"].get(name)
        if made_for != wanted:
            msg = (
                f"the state of a partition of {layout['stream']} was made for {name} = "
                f"{made_for}, the pipeline has {wanted}; the partition must begin anew"
            )
            raise DataError(msg)
    for route, model_id in state["models"].items():
        given = models[route].model_id if route in models else None
        if given != model_id:
            msg = (
                f"the state of a partition of {layout['stream']}/{route} was made with model "
                f"{model_id}, not {given}; load that model, or let the partition begin anew"
            )
            raise ArtefactError(msg)
