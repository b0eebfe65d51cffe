"""What the windows of a route look like, as a model must have been made for them."""

from __future__ import annotations

from agents.encode import feature_names
from agents.window import window_shape
from detectors.windows import Layout
from schemas.config import Route, Stream


def route_layout(name: str, stream: Stream, route: Route) -> Layout:
    """Describe the windows of a route, so that a model for other ones is refused."""
    steps, numbers, categories = window_shape(stream, *feature_names(stream))
    transforms = ",".join(f"{n}:{f.transform}" for n, f in stream.fields.items())
    window = f"{stream.window!r} key={stream.key} {transforms}"
    return Layout(name, route.label, steps, tuple(numbers), tuple(categories), window)
