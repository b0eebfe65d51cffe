"""Generated traffic with labelled anomalies, for the demonstration, benchmarks and tests.

In: a seed and a few sizes. Out: chunks of wire bytes in event-time order with their keys, times
and labels, the same for the same seed. None of it comes from real data.

>>> from connectors.synthetic import GENERATORS
>>> stream = GENERATORS["transactions"](seed=7, records=2000, entities=20, anomaly_episodes=3)
>>> sum(len(chunk) for chunk in stream.generate())
2000
>>> [episode.kind for episode in stream.episodes]
['point', 'contextual', 'group']
"""

from connectors.synthetic.base import Episode, Generated, Generator
from connectors.synthetic.flows import Flows
from connectors.synthetic.logs import PATTERN, Logs
from connectors.synthetic.transactions import Transactions

__all__ = [
    "GENERATORS",
    "PATTERN",
    "Episode",
    "Flows",
    "Generated",
    "Generator",
    "Logs",
    "Transactions",
]

GENERATORS: dict[str, type[Generator]] = {
    "flows": Flows,
    "logs": Logs,
    "transactions": Transactions,
}
