"""Settings of every Kafka client, from the one place where a pipeline states them."""

from __future__ import annotations

import ssl
from typing import Any

from connectors.kafka.bounded import bound_batches
from connectors.kafka.compatibility import understand_others
from connectors.kafka.connections import close_what_is_left
from schemas.config import Kafka
from schemas.errors import ConfigError
from schemas.nearest import nearest

__all__ = ["aiokafka_settings", "kafka_python_settings"]

PLAIN_SETTINGS = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
FILE_SETTINGS = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
KNOWN = ("security_protocol", *PLAIN_SETTINGS, *FILE_SETTINGS)
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")

# So soon a client sees that a topic has more partitions: the group then shares them out anew, and
# until then producers disagree on where a key goes.
METADATA_MS = 60_000

# Whatever aiokafka client is made in this process gets its settings from here.
understand_others()
bound_batches()
close_what_is_left()


def aiokafka_settings(config: Kafka) -> dict[str, Any]:
    """Return the connection arguments of an aiokafka client.

    Raises
    ------
    ConfigError
        If a setting is unknown, or a certificate cannot be read.
    """
    return {"bootstrap_servers": config.bootstrap, **_security(config)}


def kafka_python_settings(config: Kafka) -> dict[str, Any]:
    """Return the connection arguments of a kafka-python client.

    Raises
    ------
    ConfigError
        If a setting is unknown, or a certificate cannot be read.
    """
    servers = [server.strip() for server in config.bootstrap.split(",")]
    return {"bootstrap_servers": servers, **_security(config)}


def _security(config: Kafka) -> dict[str, Any]:
    """Check the settings; values stay out of every message, since one of them is a password."""
    for name in config.settings:
        if name not in KNOWN:
            msg = f"kafka.settings.{name} is not a setting of the clients{nearest(name, KNOWN)}"
            raise ConfigError(msg)
    protocol = config.settings.get("security_protocol", "PLAINTEXT").upper()
    if protocol not in PROTOCOLS:
        msg = f"kafka.settings.security_protocol is {protocol!r}, not one of {', '.join(PROTOCOLS)}"
        raise ConfigError(msg)
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if "SASL" in protocol:
        arguments["sasl_mechanism"] = "PLAIN"
        arguments |= {x: config.settings[x] for x in PLAIN_SETTINGS if x in config.settings}
        _require_credentials(config)
    if "SSL" in protocol:
        arguments["ssl_context"] = _ssl_context(config)
    return arguments


def _require_credentials(config: Kafka) -> None:
    """Clients that lack one fail late and each in its own words."""
    for name in PLAIN_SETTINGS[1:]:
        if not config.settings.get(name):
            msg = f"kafka.settings.{name} is missing, which SASL needs"
            raise ConfigError(msg)


def _ssl_context(config: Kafka) -> ssl.SSLContext:
    """One context for all clients: they would each build it a little differently."""
    cafile, certfile, keyfile = (config.settings.get(name) for name in FILE_SETTINGS)
    try:
        context = ssl.create_default_context(cafile=cafile)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(
            f"{x}={config.settings[x]}" for x in FILE_SETTINGS if x in config.settings
        )
        msg = f"cannot read the certificates of kafka.settings ({files}): {error}"
        raise ConfigError(msg) from error
    return context
