"""The steps of the flow, each named by its verb, and the commands that run them.

decode → encode → window → score → decide → explain → watch → publish; :mod:`agents.pipeline`
composes them. Fetches go in, outputs come out.
"""
