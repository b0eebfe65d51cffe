"""The outside systems: Kafka, files, memory, generated traffic, storage. Bytes in, bytes out.

A source hands over :class:`connectors.base.Fetch` objects, a sink takes
:class:`connectors.base.Output` objects; neither knows what the bytes mean.
"""
