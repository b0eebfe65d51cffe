"""Names of the topics that Eddy writes, and of its groups: the one place where they are spelled."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Topics"]


@dataclass(frozen=True)
class Topics:
    """Names of the deployment ``name``.

    The deployment named ``eddy`` writes ``payments.scored``; any other puts its name in front, so
    that two deployments on one cluster never write to the same topic.
    """

    name: str

    def _of(self, stream: str, suffix: str) -> str:
        prefix = "" if self.name == "eddy" else f"{self.name}."
        return f"{prefix}{stream}.{suffix}"

    def scored(self, stream: str) -> str:
        """Name the topic of scored events, keyed by entity."""
        return self._of(stream, "scored")

    def alerts(self, stream: str) -> str:
        """Name the topic of incidents, keyed by incident id."""
        return self._of(stream, "alerts")

    def keyed(self, stream: str) -> str:
        """Name the topic of records rewritten under their entity key."""
        return self._of(stream, "keyed")

    @property
    def dead_letters(self) -> str:
        """Records that could not be used."""
        return f"{self.name}.dead-letters"

    @property
    def retrain(self) -> str:
        """Retraining requests."""
        return f"{self.name}.retrain"

    @property
    def models(self) -> str:
        """Model events; compacted, keyed by stream and route."""
        return f"{self.name}.models"

    @property
    def accounts(self) -> str:
        """Accounts; compacted, keyed by stream and partition."""
        return f"{self.name}.accounts"

    @property
    def labels(self) -> str:
        """Analysts' labels."""
        return f"{self.name}.labels"

    @property
    def worker_group(self) -> str:
        """Consumer group of the workers."""
        return f"{self.name}.worker"

    def rekey_group(self, stream: str) -> str:
        """Name the consumer group of the stage that rewrites a stream by entity key."""
        return f"{self.name}.rekey.{stream}"
