"""Runs the real ``cms-python`` command as a process of its own, with or without a terminal."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Optional

from pexpect import EOF
from pexpect.fdpexpect import fdspawn

COMMAND = [sys.executable, "-W", "error", "-m", "cms_python"]
SERVER = Path(__file__).with_name("command_server.py")
LONGEST_RUN = 60.0
SCREEN = (24, 100)
COLOR_SWITCHES = {"CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"}


def environment(extra: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """The environment of a command: this one's without what would change what it does."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.lstrip("_").startswith("CMS_") or name.lower().endswith("_proxy"))
        and name not in COLOR_SWITCHES
        # Hundreds of processes read the same modules, and may keep what they compile.
        and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "COLUMNS": "100", "TERM": "xterm", **(extra or {})}


def run(
    *arguments: str,
    env: Optional[Mapping[str, str]] = None,
    input: str = "",  # noqa: A002, as subprocess.run calls it
    cwd: Optional[Path] = None,
) -> subprocess.CompletedProcess[str]:
    """Runs ``cms-python`` with the arguments to its end; ``env`` comes on top of a clean one."""
    if env and any(name.startswith("PYTHON") for name in env):
        # Python reads it where it starts, and none but an own start comes to that.
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment(env),
            input=input,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST_RUN,
            check=False,
        )
    job = {"arguments": arguments, "env": environment(env), "cwd": str(cwd or Path.cwd())}
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in range(4)]
        for file, text in zip(files, (json.dumps(job), input)):
            file.write(text.encode())
            file.seek(0)
        code = _server().run([file.fileno() for file in files])
        for file in files:
            file.seek(0)
        _, _, output, errors = [file.read().decode() for file in files]
    return subprocess.CompletedProcess([*COMMAND, *arguments], code, output, errors)


class _Server:
    """command_server.py, as long as this process runs."""

    def __init__(self) -> None:
        self._jobs, its = socket.socketpair()
        self._jobs.settimeout(LONGEST_RUN)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", str(SERVER), str(its.fileno())],
                env=environment(),
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        atexit.register(self.end)

    def run(self, files: list[int]) -> int:
        """The exit code of a job. Where it takes too long, it is ended, and so is the server."""
        socket.send_fds(self._jobs, [b"a job"], files)
        try:
            return int(self._jobs.recv(100))
        except socket.timeout:
            _server.cache_clear()
            self.end()
            raise

    def end(self) -> None:
        self._jobs.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@cache
def _server() -> _Server:
    return _Server()


@contextmanager
def started(
    *arguments: str, env: Optional[Mapping[str, str]] = None
) -> Iterator[subprocess.Popen[str]]:
    """Starts ``cms-python``, and ends it with the block if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A command at a terminal: what it shows, and a keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], screen: fdspawn[str]) -> None:
        self.process = process
        self._screen = screen
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Returns once the text is shown."""
        self._screen.expect_exact(text)
        self.shown += f"{self._screen.before}{text}"

    def type(self, keys: str) -> None:
        """Types on the keyboard."""
        self._screen.send(keys)

    def end(self) -> int:
        """Waits for the end of the command; returns its exit code."""
        self._screen.expect(EOF)
        self.shown += str(self._screen.before)
        return self.process.wait(LONGEST_RUN)


@contextmanager
def at_terminal(*arguments: str, env: Optional[Mapping[str, str]] = None) -> Iterator[Terminal]:
    """Starts ``cms-python`` at a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SCREEN, 0, 0))
    # Not pexpect.spawn(), which forks: the sandbox's threads run in this process.
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, fdspawn(master, encoding="utf-8", timeout=LONGEST_RUN))
        finally:
            process.kill()
            os.close(master)
