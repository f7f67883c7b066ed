"""What a user can do wrong: one line each, and the exit code that scripts rely on.

Exit codes: 0 done, 75 stopped by a signal with everything saved (run again), 2 usage or
config, 3 data, 4 checkpoint, 5 numerics, 6 hang, 7 storage (run again when mended),
8 another process of the run is gone (run again), 1 anything else (a bug of ours).
"""


class UserError(ValueError):
    """A mistake with a way out. The message is one line: what, where, why, way out."""

    exit_code = 2


class ConfigError(UserError):
    """Wrong usage or configuration."""


class NotGiven(ConfigError):
    """An option that has to name a file or folder, and does not."""


class DataError(UserError):
    """Data missing, damaged or not what the config says."""

    exit_code = 3


class ImageError(DataError):
    """An image whose file could be read, and whose content cannot be taken."""


class CheckpointError(UserError):
    """A checkpoint missing, damaged, or of another model; weights of a network, too."""

    exit_code = 4


class NumericsError(UserError):
    """NaN or divergence; the message says which checkpoint from before is kept."""

    exit_code = 5


class StorageError(UserError):
    """Storage that is full, read-only or failing; the same command resumes."""

    exit_code = 7


class PeerError(UserError):
    """Another process of the run is gone; the same command resumes."""

    exit_code = 8


class Interrupted(Exception):
    """A signal asked to stop, and everything is saved; the same command resumes."""

    exit_code = 75
