"""A real Apache Kafka on loopback, for development, demonstrations and tests.

In: a Java 17+ runtime and, the first time, Maven, both found on ``PATH``. Out: the bootstrap
address of a cluster of one or more nodes that ends with the process that started it.

>>> from connectors.broker import Broker
>>> with Broker(nodes=1) as broker:  # doctest: +SKIP
...     broker.bootstrap
'127.0.0.1:23451'
"""

from connectors.broker.broker import Broker
from connectors.broker.jars import fetched, find_java, kafka_version, unavailable_reason

__all__ = ["Broker", "fetched", "find_java", "kafka_version", "unavailable_reason"]
