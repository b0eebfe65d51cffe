"""window: the records of each key become windows, in an order that depends on nothing else.

Which windows come out, and in which order, follows from a partition's records in offset order:
never from how they were cut into fetches, nor from other partitions.
"""

from agents.window.aggregate import AggregateWindows
from agents.window.base import Windower, Windows
from agents.window.session import SessionWindows
from agents.window.sliding import SingleRecords, SlidingWindows
from schemas.config import Hopping, Session, Sliding, Stream, Tumbling

__all__ = ["Windower", "Windows", "make_windower", "window_shape"]


def make_windower(stream: Stream, features: int, fields: int) -> Windower:
    """Make the window state of one partition, for records of these many features and fields."""
    window = stream.window
    if isinstance(window, Session):
        return SessionWindows(window, int(stream.lateness), features, fields)
    if isinstance(window, Tumbling):
        hop = int(window.length)
        return AggregateWindows(hop, hop, int(stream.lateness), features, fields)
    if isinstance(window, Hopping):
        return AggregateWindows(
            int(window.length), int(window.hop), int(stream.lateness), features, fields
        )
    if stream.key == "none" or window.size == 1:
        return SingleRecords()
    return SlidingWindows(window, features, fields)


def window_shape(
    stream: Stream, numbers: list[str], categories: list[str]
) -> tuple[int, list[str], list[str]]:
    """Return the steps, numeric features and category features of a stream's windows."""
    window = stream.window
    if isinstance(window, Tumbling | Hopping):
        return 1, AggregateWindows.names(numbers, categories), []
    if isinstance(window, Sliding) and stream.key == "none":
        return 1, numbers, categories
    return window.size, numbers, categories
