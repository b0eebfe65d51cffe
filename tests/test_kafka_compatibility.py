"""What aiokafka is taught says, byte for byte, what another client says."""

from __future__ import annotations

from io import BytesIO

import pytest
from aiokafka.errors import ProducerFenced, for_code
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.producer import InitProducerIdRequest, InitProducerIdResponse

from connectors.kafka.compatibility import InitProducerId, understand_others

API_KEY = 22


@given(st.none() | st.text(max_size=300), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_request_is_that_of_another_client(
    transactional_id: str | None, timeout_ms: int, correlation_id: int
) -> None:
    other = InitProducerIdRequest(
        transactional_id=transactional_id,
        transaction_timeout_ms=timeout_ms,
        producer_id=-1,
        producer_epoch=-1,
    )
    other.with_header(correlation_id=correlation_id, client_id="eddy")
    ours = InitProducerId(transactional_id, timeout_ms).prepare({API_KEY: (0, 6)})
    assert ours.encode() == other.encode(version=3)
    header = ours.build_request_header(correlation_id, "eddy")
    assert header.encode() + ours.encode() == other.encode(version=3, header=True)


@given(
    st.integers(0, 2**31 - 1),
    st.integers(-1, 2**15 - 1),
    st.integers(-1, 2**63 - 1),
    st.integers(-1, 2**15 - 1),
)
def test_the_answer_is_understood(
    throttle_ms: int, error_code: int, producer_id: int, epoch: int
) -> None:
    sent = InitProducerIdResponse(
        throttle_time_ms=throttle_ms,
        error_code=error_code,
        producer_id=producer_id,
        producer_epoch=epoch,
    )
    kind = InitProducerId("x", 1).prepare({API_KEY: (0, 6)}).RESPONSE_TYPE
    got = kind.decode(BytesIO(sent.encode(version=3)))
    assert got.error_code == error_code
    assert (got.producer_id, got.producer_epoch) == (producer_id, epoch)


@pytest.mark.parametrize(
    ("versions", "chosen"), [((0, 0), 0), ((0, 2), 0), ((0, 3), 3), ((1, 6), 3)]
)
def test_the_broker_is_asked_in_a_version_that_it_knows(
    versions: tuple[int, int], chosen: int
) -> None:
    version = InitProducerId("x", 1).prepare({API_KEY: versions}).API_VERSION
    assert version == chosen


def test_both_codes_of_a_producer_that_is_shut_out_are_known() -> None:
    understand_others()
    assert for_code(90) is ProducerFenced
    assert for_code(47).__name__ == "InvalidProducerEpoch"
