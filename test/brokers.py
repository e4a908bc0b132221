"""A real Redis and a real RabbitMQ, each on a free port, that can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

import pytest
from needed import IS_CI
from waiting import wait_until

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def skip_without(kind: type[Broker]) -> None:
    """Skips a test where the server is missing; in .ci/run the test runs, and fails."""
    if not (kind.is_installed() or IS_CI):
        pytest.skip(f"{kind.__name__} is missing: apt install {kind.__name__.lower()}-server")


class Broker(ABC):
    """One server with its data in a folder; `stop()` keeps them for the next `start()`."""

    # What a Celery application needs beside the URL.
    transport_options: Mapping[str, Any]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.mapper_port = free_port(), free_port()
        self._process: Optional[subprocess.Popen[bytes]] = None

    @staticmethod
    @abstractmethod
    def is_installed() -> bool:
        """Whether this machine has the server."""

    @property
    def url(self) -> str:
        """What Celery calls the broker."""
        return self.url_at(self.port)

    @staticmethod
    @abstractmethod
    def url_at(port: int) -> str:
        """What Celery calls it where another port leads to it."""

    @abstractmethod
    def empty(self) -> None:
        """Forgets all that is queued."""

    @abstractmethod
    def _command(self) -> tuple[list[str], dict[str, str]]:
        """The command that runs the server in the foreground, and its environment."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server takes messages."""

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        line, env = self._command()
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                line, env={**os.environ, **env}, cwd=self.folder, stdout=log, stderr=log
            )
        wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None

    def _connects(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "broker.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Redis(Broker):
    """Redis, which writes each command to its append-only file before it answers."""

    # After so many seconds what a dead worker held goes to another.
    transport_options = MappingProxyType({"visibility_timeout": 4})

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("redis-server") is not None

    @staticmethod
    def url_at(port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        line = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        return [*line, "--appendonly", "yes", "--appendfsync", "always"], {}

    def _answers(self) -> bool:
        return self._connects() and b"PONG" in self._said(b"PING")

    def empty(self) -> None:
        assert self._said(b"FLUSHALL") == b"+OK\r\n"

    def held(self) -> int:
        """How many messages workers have taken and not finished."""
        return int(self._said(b"HLEN unacked")[1:])

    def ask(self, *command: str) -> list[str]:
        """The elements of an answer, none of which may be empty."""
        line = ["redis-cli", "-p", str(self.port), "--raw", *command]
        ran = subprocess.run(line, capture_output=True, text=True, check=True)
        return ran.stdout.strip().splitlines()

    def _said(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(100)


class RabbitMQ(Broker):
    """RabbitMQ, with a node, a cookie and ports of its own."""

    transport_options = MappingProxyType({})

    @staticmethod
    def is_installed() -> bool:
        return RABBITMQ.exists()

    @staticmethod
    def url_at(port: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[].\n")
        return [str(RABBITMQ)], {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_BASE": str(self.folder),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def empty(self) -> None:
        from kombu import Connection, Queue

        with Connection(self.url) as connection:
            for name in ("celery", "dead_letters"):
                Queue(name, channel=connection.default_channel).delete()

    def stop(self) -> None:
        super().stop()
        # Erlang's port mapper, which the server has started, would stay.
        line = ["epmd", "-port", str(self.mapper_port), "-kill"]
        subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def _answers(self) -> bool:
        if not self._connects():
            return False
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"


class LossyWire:
    """A way to a broker. It loses, once, what a client writes with a certain text in it.

    The connection ends there, so that the client has written all of it and the broker has nothing.
    """

    def __init__(self, port: int, text: bytes) -> None:
        self._broker, self._text = ("127.0.0.1", port), text
        self._has_lost = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> LossyWire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait_for_loss(self, seconds: float) -> None:
        assert self._has_lost.wait(seconds)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            broker = socket.create_connection(self._broker)
            for ends in ((client, broker, self._text), (broker, client, None)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, text: Optional[bytes]) -> None:
        seen = b""
        with suppress(OSError):
            while data := source.recv(65536):
                seen = seen[-1000:] + data
                if text and text in seen and not self._has_lost.is_set():
                    self._has_lost.set()
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
