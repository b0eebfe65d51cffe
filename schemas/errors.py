"""The one tree of errors that Eddy raises on purpose.

::

    EddyError
    ├── ConfigError          a pipeline file says something that cannot be (exit code 2)
    ├── SetupError           the machine lacks something: Java, a broker, an optional package
    ├── DataError            input that a caller handed over in Python has the wrong shape or kind,
    │   │                    or a snapshot is harmed or was made for another configuration
    │   └── ShapeError       … the wrong number of features, steps or fields
    ├── DetectorError
    │   ├── NotFittedError   scoring before fitting
    │   └── LabelsError      labels are missing, too few, or not understood
    └── ArtefactError        a model directory is incomplete, altered, or made for another schema

Every message names what is wrong, where, the value found, and the way out. A bad *record* is
not an error: it becomes a :class:`schemas.messages.DeadLetter`.
"""

__all__ = [
    "ArtefactError",
    "ConfigError",
    "DataError",
    "DetectorError",
    "EddyError",
    "LabelsError",
    "NotFittedError",
    "SetupError",
    "ShapeError",
]


class EddyError(Exception):
    """Root of every error that Eddy raises on purpose."""


class ConfigError(EddyError):
    """A configuration value is missing, unknown or out of range."""


class SetupError(EddyError):
    """Something that the machine must provide is not there."""


class DataError(EddyError):
    """Input handed over in Python cannot be used as it is."""


class ShapeError(DataError):
    """An array has another number of features, steps or fields than the model was fitted on."""


class DetectorError(EddyError):
    """A detector cannot do what was asked of it."""


class NotFittedError(DetectorError):
    """A detector was asked for scores before it was fitted."""


class LabelsError(DetectorError):
    """A detector that learns from labels got none, too few, or labels of another code."""


class ArtefactError(EddyError):
    """A model artefact is incomplete, altered, or belongs to another schema."""
