"""The kinds of error a caller can tell apart.

Every message says what was received, what is accepted and what to do, e.g.
``mixture weights sum to 0.93; expected 1.0: edit conf/mixture/demo_stable.yaml``.
The workflows print these without a traceback and exit with ``exit_code``.
"""


class TrunklineError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 2


class ConfigError(TrunklineError):
    """A configuration that cannot be run: unknown key, wrong type, facts that contradict each other."""


class DataError(TrunklineError):
    """A source that cannot be read or that leaves nothing to train on."""


class ArtifactError(TrunklineError):
    """A named input that is missing, unfinished or damaged, or a name already taken by another config."""


class CheckpointError(TrunklineError):
    """A checkpoint that is missing, damaged or of another model."""


class TrainingError(TrunklineError):
    """A run that cannot go on as it is: its loss is no number any more."""


class StorageError(TrunklineError):
    """The store cannot be read or written (full disk, refused credentials, lost server)."""

    exit_code = 3


class ClusterError(TrunklineError):
    """Ray cannot be reached, or lost its workers more often than allowed."""

    exit_code = 4
