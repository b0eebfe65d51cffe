"""A source and a sink that live in memory: for tests, demonstrations and composition.

In: the fetches given to the constructor. Out: the same fetches; written outputs, kept by topic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from connectors.base import Fetch, Output

__all__ = ["MemorySink", "MemorySource"]


class MemorySource:
    """Fetches from memory.

    Parameters
    ----------
    fetches
        What :meth:`fetches` yields, as often as it is called.
    """

    def __init__(self, fetches: Iterable[Fetch]) -> None:
        self._fetches = tuple(fetches)
        self._closed = False

    def fetches(self) -> Iterator[Fetch]:
        """Yield the fetches in the order given, until the source is closed."""
        for fetch in self._fetches:
            if self._closed:
                return
            yield fetch

    def close(self) -> None:
        """End every iteration at its next step."""
        self._closed = True


class MemorySink:
    """Outputs kept in memory.

    Attributes
    ----------
    topics
        The outputs of each topic, in the order written; topics appear with their first output.
    """

    def __init__(self) -> None:
        self.topics: defaultdict[str, list[Output]] = defaultdict(list)

    def write(self, outputs: Sequence[Output]) -> None:
        """Keep all messages."""
        for output in outputs:
            self.topics[output.topic].append(output)

    def close(self) -> None:
        """Do nothing: what was written stays readable."""
