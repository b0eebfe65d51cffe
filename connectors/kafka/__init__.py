"""Kafka: the worker and its group, the publisher, sources, sinks and topics; bytes in, bytes out.

The only package that imports faust. Import the modules, not this package: a command that creates
a topic should not have to load the worker.
"""
