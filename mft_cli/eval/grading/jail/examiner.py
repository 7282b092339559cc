"""The trusted side: runs a benchmark's tests with the candidate's functions behind stubs.

The tests' own names come first: what the prompt defines (imports, helper functions) is run here from the benchmark's
text, so a candidate cannot replace the `poly` that its zero is checked with. Only the entry point is the candidate's.
"""

from __future__ import annotations

import builtins
import json
import socket
import sys
import types
from collections.abc import Callable
from typing import TypedDict

from .confine import filter_calls, set_limits, silence
from .wire import BadMessage, Channel, Gone, Overtime, decode, encode

PASSED, FAILED, BROKEN, TIMED_OUT, DIED, BAD_TEST = "passed", "failed", "raised", "timed_out", "died", "bad_test"


class Job(TypedDict):
    """What the supervisor sends: the program, what it is examined with, and the limits of both sides."""

    program: str
    prompt: str
    test: str
    entry_point: str
    call_s: float
    limits: dict[str, float]
    examiner_limits: dict[str, float]


class Fatal(BaseException):
    """The candidate is of no more use. No `except Exception` of a test swallows it."""


class CandidateError(Exception):
    """The candidate raised something that is not a built-in Exception."""


class Candidate:
    """Calls into the candidate's process, each with a time limit in seconds. `fatal`: why it can be called no more."""

    def __init__(self, channel: Channel, call_s: float):
        self.channel, self.call_s = channel, call_s
        self.fatal: tuple[str, str] | None = None
        self.raised: str | None = None  # the last exception, for the verdict's text
        self.calls = 0

    def load(self, program: str, limits: dict[str, float]) -> None:
        """Start the program. Raises Fatal, or what its top level raised."""
        self._exchange({"limits": limits}, limits["start_s"])  # the machine's time, not the program's
        self._exchange({"program": program}, self.call_s)

    def stub(self, name: str) -> Callable[..., object]:
        """A function that calls the candidate's function of this name with copies of its arguments."""

        def call(*args: object, **kwargs: object) -> object:
            self.calls += 1
            return self._exchange(encode([name, list(args), kwargs]), self.call_s)

        call.__name__ = call.__qualname__ = name
        return call

    def _exchange(self, message: object, limit_s: float) -> object:
        if self.fatal:
            raise Fatal
        try:
            self.channel.send(message, limit_s)
            answer = self.channel.receive(limit_s)
            if not isinstance(answer, dict):
                raise BadMessage("no reply")
            if "value" in answer:
                value = decode(answer["value"])
                self.raised = None
                return value
            kind, text = (str(part)[:400] for part in answer["raised"])
        except Overtime:
            self.fatal = (TIMED_OUT, f"a call took more than {limit_s:g} s")
        except Gone:
            self.fatal = (DIED, "the program's process ended")
        except (BadMessage, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
            self.fatal = (BROKEN, f"what it returned cannot be passed on ({str(error)[:200]})")
        else:
            self.raised = f"{kind}: {text}"
            raise _exception(kind, text)
        raise Fatal


def _exception(kind: str, text: str) -> Exception:
    exception = getattr(builtins, kind, None)
    if isinstance(exception, type) and issubclass(exception, Exception):
        try:
            return exception(text)
        except TypeError:  # UnicodeDecodeError wants five arguments
            pass
    return CandidateError(f"{kind}: {text}")


def main(channel_fd: int, control_fd: int) -> None:
    """Read the job from stdin, run its tests, send the verdict: {"verdict", "detail", "calls"}."""
    job = json.load(sys.stdin)
    control = Channel(socket.socket(fileno=control_fd))
    channel = Channel(socket.socket(fileno=channel_fd))
    silence()
    set_limits(job["examiner_limits"])
    filter_calls()
    candidate = Candidate(channel, job["call_s"])
    verdict, detail = examine(job, candidate)
    control.send({"verdict": verdict, "detail": detail, "calls": candidate.calls})


def examine(job: Job, candidate: Candidate) -> tuple[str, str]:
    """The verdict on one program and a line on why."""
    try:
        candidate.load(job["program"], job["limits"])
    except Fatal:
        assert candidate.fatal is not None
        return candidate.fatal
    except Exception:
        return BROKEN, f"at its top level: {candidate.raised}"
    try:
        run_tests(job, candidate)
    except BaseException as error:
        verdict = _verdict(error, candidate)
    else:
        verdict = PASSED, ""
    return candidate.fatal or verdict  # a test that swallows everything does not turn a dead candidate into a pass


def run_tests(job: Job, candidate: Candidate) -> None:
    """Run the prompt (if it is a program), the tests, and their `check(candidate)` if they define one."""
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    names = module.__dict__
    try:
        prompt = compile(job["prompt"], "<prompt>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        prompt = None  # a prompt in words
    if prompt is not None:
        exec(prompt, names)
    names[job["entry_point"]] = stub = candidate.stub(job["entry_point"])
    exec(compile(job["test"], "<test>", "exec", dont_inherit=True), names)
    if callable(names.get("check")):
        names["check"](stub)


def _verdict(error: BaseException, candidate: Candidate) -> tuple[str, str]:
    line = _test_line(error)
    if isinstance(error, AssertionError) and candidate.raised is None:
        return FAILED, f"a test failed{line}"
    if candidate.raised is not None:
        return BROKEN, candidate.raised
    text = f"{type(error).__name__}: {str(error)[:200]}"
    # The test may stumble over what it was given (len of None): a wrong answer. Without a call it is the test's fault.
    return (FAILED, f"the test stumbled over the answer: {text}") if candidate.calls else (BAD_TEST, text)


def _test_line(error: BaseException) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<test>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line} of the tests)" if line else ""
