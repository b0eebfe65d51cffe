"""What aiokafka's producers need beside, to understand brokers that are not Apache's.

aiokafka asks for a producer's id in the first version of InitProducerId (Kafka 0.11), which does
not tell whether the producer has one already. Apache Kafka takes that for "no"; Tansu refuses it.
Version 3 (Kafka 2.5, KIP-360) says no explicitly. Brokers that do not know it are asked as before.

A producer that a newer one has shut out is told so by INVALID_PRODUCER_EPOCH in the old versions of
requests that aiokafka sends, and by PRODUCER_FENCED in newer ones (KIP-588). Tansu and kfake answer
the latter to all versions, which aiokafka does not know.

References
----------
https://kafka.apache.org/protocol
"""

from __future__ import annotations

from aiokafka.errors import ProducerFenced, kafka_errors
from aiokafka.producer import sender
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import InitProducerIdRequest_v0
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields

__all__ = ["understand_others"]

# Neither an id nor an epoch yet.
NONE = -1

PRODUCER_FENCED = 90


class _Response3(Response):
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _Request3(RequestStruct):
    API_KEY = 22
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response3
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class InitProducerId(Request[InitProducerIdRequest_v0 | _Request3]):
    """The request in the newest version that the broker and we know."""

    API_KEY = 22

    def __init__(self, transactional_id: str | None, transaction_timeout_ms: int) -> None:
        self._common = (transactional_id, transaction_timeout_ms)

    def build(
        self, request_struct_class: type[InitProducerIdRequest_v0 | _Request3]
    ) -> InitProducerIdRequest_v0 | _Request3:
        """Return the request as one version has it."""
        if request_struct_class.API_VERSION < _Request3.API_VERSION:
            return request_struct_class(*self._common)
        return request_struct_class(*self._common, NONE, NONE, {})


def understand_others() -> None:
    """Teach every aiokafka producer of this process; idempotent."""
    sender.InitProducerIdRequest = InitProducerId
    kafka_errors[PRODUCER_FENCED] = ProducerFenced
