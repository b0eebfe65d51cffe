"""The Kafka settings of a node, each for a stated reason."""

from pathlib import Path

__all__ = ["node_properties"]


def node_properties(
    number: int, nodes: int, client: str, controller: str, voters: str, folder: Path
) -> dict[str, object]:
    """Return the contents of ``server.properties`` for one node.

    Parameters
    ----------
    number
        ``node.id``, from 1.
    nodes
        Size of the cluster.
    client, controller
        ``HOST:PORT`` of the two listeners.
    voters
        All controllers as ``ID@HOST:PORT``, comma separated.
    folder
        The folder of the node.
    """
    replicas = min(3, nodes)
    in_sync = 2 if nodes >= 3 else 1
    return {
        "process.roles": "broker,controller",
        "node.id": number,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{client}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": folder / "data",
        # a misspelt topic must fail, as it does on a well kept cluster
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # 50 partitions each by default: most of the time of the first group or transaction
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 4,
        # groups of one consumer should not wait three seconds for a second one
        "group.initial.rebalance.delay.ms": 0,
        # history replayed with its own timestamps would be deleted as too old
        "log.retention.ms": -1,
        # 128 MiB by default, a quarter of the node's heap
        "log.cleaner.dedupe.buffer.size": 16 << 20,
        "num.network.threads": 2,
        "num.io.threads": 4,
    }
