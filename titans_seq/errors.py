"""What can go wrong for a reason the user can mend, each with the exit code of the command line."""

import logging
from typing import ClassVar

log = logging.getLogger("titans_seq")


class TitansError(Exception):
    """Told as one message that names file, place, cause and remedy; never as a traceback."""

    code: ClassVar[int] = 1


class UsageError(TitansError):
    """The command was called with something that is not there, or would overwrite something that is."""

    code = 2


class InputError(TitansError):
    """The data are not what the command can read."""

    code = 3


class ConfigError(TitansError):
    """A recipe, backbone or option is not valid, or does not fit this machine."""

    code = 4


class ModelError(TitansError):
    """A checkpoint or a memory state is missing, changed, newer or not finite."""

    code = 5


class EnvironmentFault(TitansError):
    """The machine does not give what is needed: disk, device, a writable folder, a lock."""

    code = 6


class NumericFault(TitansError):
    """A loss or gradient is not finite."""

    code = 7


class RankFault(TitansError):
    """Another process of the same training has failed; ``exit_code`` is what that one ends with."""

    def __init__(self, exit_code: int, message: str):
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(TitansError):
    """A signal ended the work at a step border; ``exit_code`` is 128 plus its number, of SIGUSR1 that of SIGTERM."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def warn(message: str) -> None:
    """Tell the user once what was accepted with a doubt; the command line prints it on stderr."""
    log.warning(message)


def inform(message: str) -> None:
    """Tell the user once what was decided for them, which is no fault; the command line prints it on stderr."""
    log.info(message)
