"""Programs that attack the sandbox, the checker or the machine. Each is a real program in a real sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.eval.grading import code_runs
from mft_cli.eval.grading.code_runs import TOO_MUCH, Job, open_sandbox, run_job
from mft_cli.eval.grading.jail.examiner import BAD_TEST, BROKEN, DIED, FAILED, PASSED, TIMED_OUT
from mft_cli.eval.grading.jail.wire import BadMessage, Channel, Opaque, decode, encode
from mft_cli.eval.grading.sandbox import BUBBLEWRAP, NAMESPACES, Limits

LIMITS = Limits(call_s=3.0, memory_bytes=512 << 20, scratch_bytes=4 << 20, scratch_files=200, processes=16)
SECRET = "the-user's-own-secret"


@pytest.fixture(scope="module", params=[BUBBLEWRAP, NAMESPACES])
def sandbox(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFT_SECRET", SECRET)
        try:
            with open_sandbox(LIMITS, kinds=(request.param,)) as made:
                yield made
        except UserError as reason:
            pytest.skip(f"NOT TESTED: {request.param} makes no sandbox on this machine: {reason}")


def run(sandbox, program: str, test: str = "def check(f):\n    assert f() == 42\n", limits: Limits = LIMITS, prompt=""):
    return run_job(sandbox, Job(textwrap.dedent(program), prompt, test, "f"), limits)


def ask(sandbox, body: str, limits: Limits = LIMITS):
    """What `f()` returned inside, read out of the verdict's text: the test fails with it on purpose."""
    program = "import ctypes, os, resource, socket, sys, time\ndef f():\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    found = run(sandbox, program, "def check(f):\n    raise KeyError(f())\n", limits)
    return found.detail.removeprefix("the test stumbled over the answer: KeyError: ")


def left_over() -> list[str]:
    """Command lines of processes of a sandbox that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            line = (folder / "cmdline").read_text()
            if "from jail.candidate" in line and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(line)
    return found


def test_an_honest_program_passes(sandbox):
    program = (
        "from typing import List\nimport math, re, collections, itertools, functools, numpy\ndef f():\n    return 42\n"
    )
    assert run(sandbox, program).verdict == PASSED
    assert run(sandbox, "def f():\n    return 41\n").verdict == FAILED
    found = run(sandbox, "def f():\n    raise IndexError('no such')\n")
    assert (found.verdict, found.detail) == (BROKEN, "IndexError: no such")


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_network(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        body = f"""
            try:
                socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)
            except OSError as e:
                return type(e).__name__
            return 'connected'
            """
        assert ask(sandbox, body) == "'PermissionError'"
        with pytest.raises(TimeoutError):
            server.accept()


def test_network_namespace_is_empty_even_if_sockets_could_be_made(sandbox):
    """The filter blocks socket(); below it lies a namespace without any interface that is up."""
    sleeping = "import time\ntime.sleep(1.5)\ndef f():\n    return 42\n"
    with outside_view(sandbox, sleeping) as pid:
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert all(int(line.split(":")[1].split()[0]) == 0 for line in lines), lines


def test_files_outside(sandbox, tmp_path):
    secret = tmp_path / "secret-of-the-user.txt"
    secret.write_text(SECRET)
    places = [str(secret), "/etc/passwd", "/etc/shadow", os.path.expanduser("~/.bashrc"), __file__, "/dev/vda", "/sys"]
    assert ask(sandbox, f"return [p for p in {places!r} if os.path.exists(p)]") == "[]"
    body = f"""
        names = {{{secret.name!r}, {Path(__file__).name!r}, 'mft_cli', '.git', '.ssh'}}
        return [p for p, folders, files in os.walk('/') if names & set(folders + files)]
        """
    assert ask(sandbox, body) == "[]"


def test_nothing_outside_tmp_can_be_written(sandbox):
    body = """
        wrote = []
        for p in ['/', '/usr/lib', '/mft', '/mft/jail', '/dev', '/etc', '/root', os.path.dirname(os.__file__)]:
            try:
                open(p + '/x', 'w').close()
                wrote.append(p)
            except OSError: pass
        for p in ['/dev/null', '/mft/jail/wire.py']:
            try:
                os.remove(p)
                wrote.append(p)
            except OSError: pass
        open('/tmp/x', 'w').close()
        return wrote
        """
    assert ask(sandbox, body) == "[]"


def test_environment(sandbox):
    body = """
        found = [f'{k}={v}' for k, v in os.environ.items()]
        for p in ('/proc/1/environ', '/proc/self/environ', '/proc/2/environ'):
            try:
                found.append(open(p).read())
            except OSError: pass
        e = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')
        i = 0
        while e[i]:
            found.append(e[i].decode())
            i += 1
        return [x for x in found if not x.startswith(('OPENBLAS_NUM_THREADS=', 'LC_CTYPE=', 'PWD='))]
        """
    assert ask(sandbox, body) == "[]"


def test_other_processes_are_out_of_reach(sandbox):
    victim = subprocess.Popen(["sleep", "60"])
    try:
        body = f"""
            reached = []
            for p in [{victim.pid}, {os.getpid()}]:
                try:
                    os.kill(p, 9)
                    reached.append(p)
                except OSError: pass
            return reached
            """
        assert ask(sandbox, body) == "[]"
        everyone = "import os\ndef f():\n    try:\n        os.kill(-1, 9)\n    except OSError: pass\n    return 42\n"
        assert run(sandbox, everyone).verdict in (PASSED, DIED)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_signals_to_the_parent(sandbox):
    program = """
        import os, signal
        def f():
            for process in (os.getppid(), 1, 2):
                for kind in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGUSR1):
                    try:
                        if process != os.getpid(): os.kill(process, kind)
                    except OSError: pass
            return 41
        """
    assert run(sandbox, program).verdict in (FAILED, DIED)  # and this process is alive to say so


def test_fork_bomb(sandbox):
    program = (
        "import os\ndef f():\n    while True:\n        try:\n            os.fork()\n        except OSError: pass\n"
    )
    started = time.monotonic()
    assert run(sandbox, program, limits=Limits(call_s=1.0)).verdict in (TIMED_OUT, DIED, BROKEN)
    assert time.monotonic() - started < 20
    assert_gone()


def test_number_of_processes_is_limited(sandbox):
    body = """
        n = 0
        while n < 1000:
            try:
                p = os.fork()
            except OSError: break
            if p == 0:
                time.sleep(30)
                os._exit(0)
            n += 1
        return n
        """
    assert 0 <= int(ask(sandbox, body)) < LIMITS.processes
    assert_gone()


def test_a_daemon_does_not_survive(sandbox):
    program = """
        import os, time
        def f():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: time.sleep(300)
                os._exit(0)
            return 42
        """
    assert run(sandbox, program).verdict == PASSED
    assert_gone()


def assert_gone() -> None:
    end = time.monotonic() + 5
    while (left := left_over()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize(
    "grab", ["x = bytearray(1 << 40)", "x = []\n    while True:\n        x.append(bytearray(1 << 20))"]
)
def test_memory_of_one_process(sandbox, grab):
    found = run(sandbox, f"def f():\n    {grab}\n    return 42\n")
    assert found.verdict in (BROKEN, TOO_MUCH, DIED)
    if found.verdict == BROKEN:
        assert "MemoryError" in found.detail


def test_memory_of_many_processes_together(sandbox):
    program = """
        import os, time
        def f():
            for _ in range(6):
                if os.fork() == 0:
                    x = bytearray(200 << 20)
                    for i in range(0, len(x), 4096): x[i] = 1
                    time.sleep(30)
            time.sleep(30)
        """
    assert run(sandbox, program, limits=Limits(call_s=15, memory_bytes=512 << 20)).verdict == TOO_MUCH
    assert_gone()


@pytest.mark.parametrize(
    "call",
    ["os.memfd_create('x')", "multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 30)", "shm()"],
    ids=["memfd", "posix", "system v"],
)
def test_memory_that_no_limit_counts(sandbox, call):
    shm = "def shm():\n    if ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) == -1: raise OSError('shmget')\n"
    program = f"import ctypes, os, multiprocessing.shared_memory\n{shm}def f():\n    {call}\n    return 42\n"
    assert run(sandbox, program).verdict == BROKEN


def test_disk(sandbox):
    program = """
        def f():
            n = 0
            for i in range(100):
                with open(f'/tmp/{i}', 'wb', 0) as file:
                    while n < 1 << 30 and file.write(b'x' * (1 << 20)): n += 1 << 20
            return 42
        """
    found = run(sandbox, program)
    assert found.verdict == BROKEN
    assert "OSError" in found.detail


def test_many_empty_files(sandbox):
    program = "def f():\n    i = 0\n    while True:\n        open(f'/tmp/{i}', 'w').close()\n        i += 1\n"
    assert run(sandbox, program).verdict in (TOO_MUCH, BROKEN)


def test_endless_output(sandbox):
    program = "import sys\ndef f():\n    while True:\n        print('x' * 100000); sys.stderr.write('y' * 100000)\n"
    assert run(sandbox, program, limits=Limits(call_s=1.0)).verdict == TIMED_OUT


def test_proc_is_not_there(sandbox):
    body = """
        places = ['/proc/self', '/proc/1', '/proc/kallsyms', '/proc/sys', '/sys/kernel']
        return [p for p in places if os.path.exists(p)]
        """
    assert ask(sandbox, body) == "[]"


def test_ctypes_reaches_no_further(sandbox):
    body = """
        c = ctypes.CDLL(None)
        intel = os.uname().machine == 'x86_64'
        out = {
            'setuid': c.setuid(0),
            'mount': c.mount(b'none', b'/tmp', b'tmpfs', 0, None),
            'mount proc': c.mount(b'proc', b'/tmp', b'proc', 0, None),
            'remount': c.mount(None, b'/usr/lib', None, 32 | 4096, None),
            'unshare': c.unshare(0x10000000),
            'clone': c.syscall(56 if intel else 220, 0x10000011, 0, 0, 0, 0),
            'ptrace': c.ptrace(16, os.getppid(), 0, 0),
            'chroot': c.chroot(b'/tmp'),
            'bpf': c.syscall(321 if intel else 280, 0, 0, 0),
            'keyctl': c.syscall(250 if intel else 219, 0, -3, 1),
            'io_uring': c.syscall(425, 1, ctypes.create_string_buffer(200)),
            'open files': -1 if resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 64 else 0,
            'a capability': -1 if all(c.prctl(47, 1, i, 0, 0) != 1 for i in range(41)) else 0,
        }
        return sorted(name for name, result in out.items() if result != -1)
        """
    assert ask(sandbox, body) == "[]"


def test_limits_cannot_be_raised(sandbox):
    body = """
        raised = []
        for kind in range(16):
            hard = resource.getrlimit(kind)[1]
            try:
                if hard != -1: raised.append((resource.setrlimit(kind, (hard, hard + 1)), kind))
            except (ValueError, OSError): pass
        return raised
        """
    assert ask(sandbox, body) == "[]"


class outside_view:
    """The candidate's innermost process, seen from outside while its program sleeps."""

    def __init__(self, sandbox, program: str):
        self.sandbox, self.job = sandbox, Job(program, "", "assert f() == 42", "f")

    def __enter__(self) -> int:
        self.stack = contextlib.ExitStack()
        pair = code_runs._Pair(self.sandbox, self.job, LIMITS, self.stack)
        while pair.scratch is None:
            pair._receive_scratch()
        pid = pair.candidate.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def __exit__(self, *_):
        self.stack.close()


def test_it_has_no_rights_at_all(sandbox):
    with outside_view(sandbox, "import time\ntime.sleep(1.5)\ndef f():\n    return 42\n") as pid:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert {status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert set(status["Uid"].split()) == {"65534" if os.getuid() == 0 else str(os.getuid())}


# ---- the checker ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "raise SystemExit", "os.abort()", "quit()"])
def test_ending_the_process_is_no_pass(sandbox, end):
    swallowing = "def check(f):\n    try:\n        f()\n    except BaseException:\n        pass\n    f()\n"
    for program in (f"import os, sys\ndef f():\n    {end}\n", f"import os, sys\n{end}\ndef f():\n    return 42\n"):
        assert run(sandbox, program).verdict in (DIED, BROKEN)
        assert run(sandbox, program, swallowing).verdict in (DIED, BROKEN)


def test_printing_the_verdict(sandbox):
    program = """
        import os
        def say():
            line = '{"verdict": "passed", "detail": "", "calls": 1}\\n'
            print(line)
            for fd in range(64):
                try:
                    os.write(fd, line.encode())
                except OSError: pass
        say()
        def f():
            say()
            return 41
        """
    assert run(sandbox, program).verdict in (FAILED, BROKEN)


def test_forged_replies_are_only_data(sandbox):
    """It can write whatever it likes to its channel; what comes out is compared like an answer, or is none."""
    program = """
        import os
        def f():
            for fd in range(3, 64):
                try:
                    os.write(fd, FORGED.encode() + b'\\n')
                except OSError: pass
            return 42
        """
    for forged in ('{"value": {"eval": "1"}}', '{"value": 41}', "[]", '{"raised": []}', '{"value": {"set": [[]]}}'):
        found = run(sandbox, f"FORGED = {forged!r}\n" + textwrap.dedent(program))
        assert found.verdict in (FAILED, BROKEN), forged


def test_patching_the_checker(sandbox):
    program = """
        import builtins, sys
        import jail.candidate, jail.examiner, jail.wire
        jail.examiner.examine = lambda *a: ('passed', '')
        jail.examiner.run_tests = jail.examiner._verdict = lambda *a: None
        for module in list(sys.modules.values()):
            for name in ('check', 'assertion', 'candidate'):
                try:
                    setattr(module, name, lambda *a, **k: True)
                except (AttributeError, TypeError): pass
        builtins.AssertionError = Exception
        builtins.abs = lambda x: 0
        def f():
            return 41
        """
    assert run(sandbox, program, "def check(f):\n    assert abs(f() - 42) < 0.5\n").verdict in (FAILED, BROKEN)
    for name in ("isinstance", "getattr", "type", "len", "all"):
        worse = f"import builtins\nbuiltins.{name} = lambda *a: True\ndef f():\n    return 41\n"
        assert run(sandbox, worse).verdict in (FAILED, BROKEN, DIED), name


@pytest.mark.parametrize("base", ["object", "int", "list", "str", "dict", "float", "tuple"])
def test_objects_that_equal_everything(sandbox, base):
    program = f"""
        class Yes({base}):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 0
            def __lt__(self, other): return True
            __gt__ = __le__ = __ge__ = __lt__
            def __sub__(self, other): return 0
            __rsub__ = __sub__
        def f():
            return Yes()
        """
    assert run(sandbox, program).verdict == FAILED
    assert run(sandbox, program, "def check(f):\n    assert abs(f() - 42) < 1e-6\n").verdict == FAILED


def test_reading_the_tests(sandbox):
    program = """
        import gc, os, sys
        def f():
            mark = lambda: ''.join(['MA', 'RK', 'ER'])  # its own traces must not be found
            found, frame = [], sys._getframe()
            while frame:
                names = {**frame.f_globals, **frame.f_locals}
                found += [k for k, v in names.items() if k != 'found' and mark() in repr(v)[:10000]]
                frame = frame.f_back
            del names
            for o in gc.get_objects():
                if isinstance(o, (list, dict, tuple)) and o is not found and mark() in str(o)[:10000]:
                    found.append(type(o).__name__)
            found += [a for a in sys.argv if mark() in a]
            found += [files for _, _, files in os.walk('/tmp') if files]
            for fd in range(64):
                try:
                    if mark().encode() in os.pread(fd, 100000, 0): found.append(fd)
                except OSError: pass
            return found
        """
    test = "def check(f):\n    expected = 'MARKER'\n    got = f()\n    assert got == [], got\n"
    found = run(sandbox, program, test)
    assert (found.verdict, found.detail) == (PASSED, "")


def test_helpers_of_the_prompt_are_the_benchmarks_own(sandbox):
    """HumanEval/32 checks a zero with the prompt's polynomial: a candidate's own `poly` is not asked."""
    prompt = "def poly(x):\n    return x - 42\n\ndef f():\n    '''A zero of poly.'''\n"
    test = "def check(f):\n    assert abs(poly(f())) < 1e-4\n"
    assert run(sandbox, "def poly(x):\n    return 0\ndef f():\n    return 7\n", test, prompt=prompt).verdict == FAILED
    assert run(sandbox, "def f():\n    return 42\n", test, prompt=prompt).verdict == PASSED


def test_arguments_are_copies(sandbox):
    program = "def f(x):\n    x.append(1)\n    x.sort = None\n    return 42\n"
    test = "def check(f):\n    x = [2]\n    try:\n        f(x)\n    except AttributeError:\n        pass\n    assert x == [2]\n"
    assert run(sandbox, program, test).verdict == PASSED


# ---- time and size --------------------------------------------------------------------------------------------------


SLOW = {
    "loop": "def f():\n    while True: pass\n",
    "top level": "while True: pass\n",
    "sleep": "import time\ndef f():\n    time.sleep(100)\n",
    "power": "def f():\n    return 9 ** 9 ** 9\n",
    "deaf to signals": """
        import signal
        def f():
            for s in range(1, 65):
                try:
                    signal.signal(s, signal.SIG_IGN)
                except (OSError, ValueError): pass
            while True: pass
        """,
    "a byte at a time": """
        import os, time
        def f():
            while True:
                for fd in range(3, 12):
                    try:
                        os.write(fd, b' ')
                    except OSError: pass
                time.sleep(0.01)
        """,
}


@pytest.mark.parametrize("program", SLOW.values(), ids=SLOW)
def test_time(sandbox, program):
    started = time.monotonic()
    assert run(sandbox, program, limits=Limits(call_s=0.5)).verdict == TIMED_OUT
    assert time.monotonic() - started < 15


def test_a_test_cannot_swallow_a_time_out(sandbox):
    test = "def check(f):\n    try:\n        f()\n    except BaseException:\n        pass\n"
    assert run(sandbox, "def f():\n    while True: pass\n", test, Limits(call_s=0.5)).verdict == TIMED_OUT


@pytest.mark.parametrize(
    "value",
    ["'x' * (100 << 20)", "g()", "float('nan')", "'\\ud800\\x00'", "10 ** 100000", "iter([42])", "print"],
    ids=["too long", "nested", "nan", "surrogate", "digits", "iterator", "function"],
)
def test_odd_values(sandbox, value):
    program = f"def g():\n    x = []\n    for _ in range(100000): x = [x]\n    return x\ndef f():\n    return {value}\n"
    assert run(sandbox, program).verdict in (FAILED, BROKEN)


def test_a_broken_test_is_told_apart(sandbox):
    assert run(sandbox, "def f():\n    return 42\n", "import nothing_of_this_name\n").verdict == BAD_TEST


# ---- plain data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -7, 2**53, -(10**5000), 1.5, float("inf"), "a\n\x00\ud800é", [], [1, [2.0, "x"]], (1, (2,)),
        {1: "a", (1, 2): [3]}, {1, 2}, frozenset({3}), b"\xff", bytearray(b"x"), 1 + 2j, {"tuple": [1]}, {"opaque": 1},
    ],
    ids=lambda v: f"{type(v).__name__}",
)  # fmt: skip
def test_plain_data_comes_back(value):
    import json

    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_what_is_not_plain_becomes_a_mark_that_equals_nothing():
    mark = decode(encode(object()))
    assert isinstance(mark, Opaque)
    assert mark != decode(encode(object()))


@pytest.mark.parametrize("bad", [{"eval": "1"}, {}, {"int": "zz"}, {"set": [[1]]}, {"dict": [[1]]}, {"a": 1, "b": 2}])
def test_other_messages_are_refused(bad):
    with pytest.raises(BadMessage):
        decode(bad)


def test_a_message_has_a_longest_length(monkeypatch):
    from mft_cli.eval.grading.jail import wire

    monkeypatch.setattr(wire, "MAX_MESSAGE", 1000)
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(BadMessage):
            Channel(left).send("x" * 2000)
        left.sendall(b"y" * 2000)
        with pytest.raises(BadMessage):
            Channel(right).receive(1)


def test_without_any_sandbox_the_user_hears_how_to_get_one(monkeypatch):
    with (
        pytest.raises(UserError, match=r"apt install bubblewrap.*eval\.allow_unsandboxed=true"),
        open_sandbox(LIMITS, kinds=()),
    ):
        pass


def test_unsandboxed_is_the_users_own_word():
    with open_sandbox(LIMITS, kinds=(), allow_none=True) as bare:
        assert bare.kind == "none"
        assert run(bare, "def f():\n    return 42\n").verdict == PASSED
        assert run(bare, "import os\ndef f():\n    os._exit(0)\n").verdict == DIED
        assert (
            ask(bare, "return sorted(k for k in os.environ if k not in ('OPENBLAS_NUM_THREADS', 'LC_CTYPE'))") == "[]"
        )
        assert signal.getsignal(signal.SIGTERM) is not None
