"""window: the records of each key become windows, in an order that depends on nothing else.

Which windows come out, and in which order, follows from a partition's records in offset order:
never from how they were cut into fetches, nor from other partitions.

Windows of event time are complete as soon as the watermark, the newest event time of the
partition, has passed their end (of a session: its end and the gap). They are kept until it has
passed that by ``lateness``. A record that comes in between changes the windows that it belongs
to, and each of these is complete again, with a revision one higher: one revision for each late
record and window. So revisions follow from the order of the records alone, and cost at most what
sliding windows of stride 1 do (where windows overlap, as often as they do). A session that such a
record extends to beyond the watermark goes on, and is complete again when it is over.

In whatever order records within the lateness arrive, the last revisions are those of records that
arrive in the order of their time.
"""

from agents.encode import logarithmic
from agents.window.aggregate import AggregateWindows
from agents.window.base import Windower, Windows
from agents.window.session import SessionWindows
from agents.window.sliding import SingleRecords, SlidingWindows
from schemas.config import Hopping, Session, Sliding, Stream, Tumbling

__all__ = ["Windower", "Windows", "logarithms", "make_windower", "window_shape"]


def make_windower(stream: Stream, features: int, fields: int, *, final: bool = False) -> Windower:
    """Make the window state of one partition, for records of these many features and fields.

    With ``final``, each window comes out once, when no record can change it any more.
    """
    window, lateness = stream.window, int(stream.lateness)
    if isinstance(window, Session):
        return SessionWindows(window, lateness, features, fields, final=final)
    if isinstance(window, Tumbling | Hopping):
        length = int(window.length)
        hop = int(window.hop) if isinstance(window, Hopping) else length
        return AggregateWindows(length, hop, lateness, features, fields, final=final)
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


def logarithms(stream: Stream) -> set[str]:
    """Names of the numeric features of a stream's windows that are logarithms."""
    numbers = logarithmic(stream)
    if isinstance(stream.window, Tumbling | Hopping):
        return AggregateWindows.logarithms(numbers)
    return numbers
