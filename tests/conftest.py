"""Fixtures that several test modules share, and how tests find the real broker."""

import functools
import gc
import logging
import os
import re
import uuid
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from connectors.broker import Broker, unavailable_reason
from schemas.config import Kafka
from tests.worker_process import Process

# The same examples on every machine, however slow it is.
settings.register_profile(
    "eddy", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("eddy")

BROKER_REQUIRED = os.environ.get("EDDY_REQUIRE_BROKER") == "1"

# The address of a cluster that runs already, of whatever make: the tests then use that one, and
# leave their topics behind there.
BOOTSTRAP = os.environ.get("EDDY_TEST_BOOTSTRAP")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the broker tests on one worker of ``--dist loadgroup``, so that they share a broker."""
    for item in items:
        if item.get_closest_marker("broker"):
            item.add_marker(pytest.mark.xdist_group("broker"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the broker tests where no broker can run, all from here, so that one line tells it.

    With EDDY_REQUIRE_BROKER=1 nothing is skipped: the tests then fail with what is missing.
    """
    if BOOTSTRAP:
        if item.get_closest_marker("own_broker"):
            pytest.skip("starts and ends brokers of its own: EDDY_TEST_BOOTSTRAP names one to keep")
    elif item.get_closest_marker("broker") and not BROKER_REQUIRED:
        reason = broker_missing()
        if reason:
            pytest.skip(f"THE BROKER TESTS DID NOT RUN: {reason}")


@functools.cache
def broker_missing() -> str | None:
    """Why no broker can run here, found once a run and before any test changes PATH."""
    return unavailable_reason()


@pytest.fixture(scope="session")
def broker() -> Iterator[Kafka]:
    """The connection to one cluster for the whole run: use topics and groups of your own."""
    if BOOTSTRAP:
        yield Kafka(bootstrap=BOOTSTRAP)
        return
    with Broker() as running:
        yield Kafka(bootstrap=running.bootstrap)


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> str:
    """A topic name that no other test uses, telling whose it is."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:100].strip("-")
    return f"{words}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Worker processes that end with the test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.close()


@pytest.fixture
def config(broker: Kafka) -> Kafka:
    """The connection to the shared broker."""
    return broker


@pytest.fixture
def topic(config: Kafka, topic_name: str) -> str:
    """A topic of four partitions that holds COUNT records."""
    from tests.kafka_support import COUNT, fill, make_topic, outputs  # loads the Kafka clients

    make_topic(config, topic_name)
    fill(config, topic_name, outputs(topic_name, COUNT))
    return topic_name


@pytest.fixture
def target(config: Kafka, topic_name: str) -> str:
    """An empty topic beside the one of the same test."""
    from tests.kafka_support import make_topic

    make_topic(config, f"{topic_name}.out")
    return f"{topic_name}.out"


@pytest.fixture
def nodes_may_die(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For tests that kill nodes under a kafka-python client.

    That client leaves the socket of a refused connection to the garbage collector, whose complaint
    would otherwise fail this test or, worse, a later one. Its log is cut off because captured
    records hold the refusals, and so the sockets, beyond the end of the test.
    """
    caplog.set_level(logging.CRITICAL, logger="kafka")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed <socket", category=ResourceWarning)
        yield
        gc.collect()
