"""The one exception that means "the user can correct this", and the exit codes of every command."""

import signal

EXIT_DONE = 0
EXIT_OURS = 1  # a defect of mft: a traceback is shown
EXIT_USER = 2  # the user's mistake: one clear sentence, no traceback
EXIT_STOPPED = 75  # stopped by a signal after saving; start the same command again to go on (sysexits' EX_TEMPFAIL)
EXIT_INTERRUPTED = 130  # a Ctrl-C before or after what can be saved; shells say 128 + SIGINT


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)  # finish the step, save, stop


def first_line(error: BaseException, most: int = 300) -> str:
    """What a library says in its first line, at most so many characters; its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def memory_problem(error: BaseException) -> str | None:
    """Whose memory did not suffice; None where it was something else. torch tells of the processor's in words only."""
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory does not suffice"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "this machine's memory does not suffice"
    return None


class UserError(Exception):
    """Something that the user can correct. Its text is one clear sentence: what, where, what was expected, what to do."""


class Stopped(Exception):
    """The run was asked to stop by the signal `by`, such as SIGUSR1, and has saved its state."""

    def __init__(self, message: str, by: str | None = None):
        super().__init__(message)
        self.by = by


class RankFailed(Exception):
    """A process of the run failed by a defect; it has shown its traceback, so the driver only names the logs."""
