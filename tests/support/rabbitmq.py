"""A RabbitMQ of Debian's for a test: a node of its own in a folder of its own, on loopback, beside whatever the system runs.

Erlang's port mapper is one of its own too, and so are the ports of both; the node is ended by its pid.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

from ops.localstack import HOST, free_port
from ops.supervisor import Program
from tests.support.processes import Running

USER = "aforo"
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # what the command on the PATH calls, as Debian's own user and nobody else
NODE = "localhost"


def missing() -> str | None:
    """What is not installed, in words; None if all is."""
    if SCRIPT.exists() and shutil.which("epmd"):
        return None
    return "RABBITMQ IS NOT TESTED: it needs Debian's rabbitmq-server (apt-get install)"


class RabbitMQ:
    """A running node. `url`: Celery's way to it. Closed with `close`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        password = secrets.token_hex(16)
        self.url = f"amqp://{USER}:{password}@{HOST}:{self.port}//"
        self._folder = folder / "rabbitmq"
        self._folder.mkdir(mode=0o700)
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{self.port}\ndefault_user = {USER}\ndefault_pass = {password}\n"
        )
        (self._folder / "plugins").write_text("[].\n")
        for path in (self._folder, *self._folder.iterdir()):
            if self._user is not None:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        environment = self._environment(free_port())
        self._running = ExitStack()
        self._run(self._program("epmd", [str(shutil.which("epmd")), "-address", HOST], environment), folder)
        self.node = self._run(self._program("rabbitmq", [str(SCRIPT)], environment), folder)

    def answers(self) -> bool:
        """Whether it takes connections and speaks; before it does, it closes them."""
        try:
            with socket.create_connection((HOST, self.port), timeout=2) as peer:
                peer.sendall(b"AMQP\x00\x00\x09\x01")
                return peer.recv(1) == b"\x01"
        except OSError:
            return False

    def close(self) -> None:
        """End it; nothing here has to last."""
        self._running.close()

    def _run(self, program: Program, folder: Path) -> Running:
        running = Running(program, folder)
        self._running.callback(running.kill)
        return running

    def _program(self, name: str, command: list[str], environment: dict[str, str]) -> Program:
        user, group = (self._user.pw_uid, self._user.pw_gid) if self._user else (None, None)
        is_ready = self.answers if name == "rabbitmq" else None
        return Program(name, command, environment, self._folder, user=user, group=group, is_ready=is_ready)

    def _environment(self, epmd_port: int) -> dict[str, str]:
        folder, on_loopback = str(self._folder), "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": folder,  # Erlang's cookie goes there
            "RUNNING_UNDER_SYSTEMD": "true",  # the node itself is our child, not a shell that waits for it
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"aforo{self.port}@{NODE}",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{on_loopback} +S 1:1",
        }
