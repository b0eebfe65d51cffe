"""The steps of the flow, each named by its verb, and the commands that run them.

decode → encode → window → score → decide → explain → watch → publish; :mod:`agents.pipeline`
composes them. Fetches go in, outputs come out.
"""

import os

# A thread of OpenMP spins for a millisecond after its share of an operation, lest it be needed
# again at once. Where the worker's other threads want its core, as while they pack a checkpoint, it
# is not there when it is needed, and a batch takes twice as long. Ten microseconds do as well. The
# variable is read when PyTorch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
