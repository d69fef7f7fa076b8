"""Why a data set could not be read; each message names the file and the mend.

DataError (ValueError)
├── MissingData        no folder, cache or wheel holds it
├── ChecksumMismatch   a file is there and is another one
└── UnreadableData     the right file, but its content contradicts itself
"""


class DataError(ValueError):
    """A data set cannot be had or read."""


class MissingData(DataError):
    """The data set's files are not where we may look."""


class ChecksumMismatch(DataError):
    """A file's sha256 is not the recorded one."""


class UnreadableData(DataError):
    """The rows do not make a data set: an event of an unknown item, two items of one id, a row cut short."""
