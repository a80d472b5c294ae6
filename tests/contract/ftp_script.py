"""An FTP server that says, word for word, what no well-behaved server can be made to say."""

from __future__ import annotations

import ftplib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_serving_reload.delivery.stores.ftp import FtpStore

from .bench import PASSWORD, USER
from .tcp import TcpServer


@dataclass(frozen=True, slots=True)
class Transfer:
    """What happens on the data connection, and what is said around it.

    :param data: what is sent.
    :param takes: bytes that are read before; None for all that come.
    :param end: said behind it; empty to hang up without a word.
    :param stalling: keep the data connection open behind the data.
    :param begin: said before it.
    """

    data: bytes = b""
    takes: int | None = 0
    end: str = "226 done"
    stalling: bool = False
    begin: str = "150 here it comes"


SILENCE = Transfer(begin="", end="")
"""No answer at all, and the connection stays open."""

HANG_UP = Transfer(begin="hang up", end="")
"""The connection is closed without an answer."""

Step = str | Transfer
Script = Mapping[str, Step | Sequence[Step]]
"""Command, or whole line, to the answer; to the first, second, ... and then always the last, if there are several."""

POLITE: Script = {
    "WELCOME": "220 a script",
    "USER": "331 who says so?",
    "PASS": "230 come in",
    "TYPE": "200 ok",
    "OPTS": "200 ok",
    "CWD": "250 ok",
    "REST": "350 ok",
    "QUIT": "221 bye",
}


@dataclass
class ScriptedFtp(TcpServer):
    """Follows a script.

    :param script: what it says beside the courtesies; `ELSE` to what is in neither, or else that it does not know it.
    :param encoding: of what it says and hears.
    """

    script: Script
    encoding: str = "utf-8"
    commands: list[str] = field(default_factory=list, init=False)
    """Everything that clients said, in order, logins aside."""
    _asked: dict[str, int] = field(default_factory=dict, init=False)

    def store(self, timeout: float = 20, encoding: str = "utf-8") -> FtpStore:
        """Open a store on it, without pauses."""

        def connected() -> ftplib.FTP:
            client = ftplib.FTP(encoding=encoding)
            try:
                client.connect(*self.address, timeout)
                client.login(USER, PASSWORD)
            except BaseException:
                client.close()
                raise
            return client

        store = FtpStore(connected, f"ftp://{self.address.host}:{self.address.port}")
        store.resume_pauses = (0, 0)
        return store

    def said(self, *commands: str) -> list[str]:
        """Give what clients said with these commands, in order."""
        return [line for line in self.commands if line.partition(" ")[0] in commands]

    def _serve(self, control: socket.socket) -> None:
        with control, control.makefile("rb") as lines:
            if not self._say(control, self._step("WELCOME")):
                return
            ports: list[socket.socket] = []
            while line := lines.readline().decode(self.encoding, "replace").rstrip("\r\n"):
                command = line.partition(" ")[0]
                if command not in ("USER", "PASS"):
                    self.commands.append(line)
                if command == "PASV" and "PASV" not in self.script:
                    ports = [self._listen()]
                    high, low = divmod(ports[0].getsockname()[1], 256)
                    step: Step = f"227 at (127,0,0,1,{high},{low})"
                else:
                    step = self._step(line if line in self.script else command)
                if not self._say(control, step, ports):
                    return

    def _step(self, name: str) -> Step:
        steps = self.script.get(name, POLITE.get(name, self.script.get("ELSE", f"500 {name}?")))
        if isinstance(steps, (str, Transfer)):
            return steps
        asked = self._asked[name] = self._asked.get(name, 0) + 1
        return steps[min(asked, len(steps)) - 1]

    def _say(self, control: socket.socket, step: Step, ports: Sequence[socket.socket] = ()) -> bool:
        """Give an answer; False to hang up."""
        if isinstance(step, str):
            control.sendall(f"{step}\r\n".encode(self.encoding))
            return True
        if step in (SILENCE, HANG_UP):
            return step == SILENCE
        with ports[0] as listener:
            data = self._own(listener.accept()[0])
        control.sendall(f"{step.begin}\r\n".encode(self.encoding))
        if step.takes is None:
            while data.recv(1 << 16):
                pass
        elif step.takes:
            data.recv(step.takes, socket.MSG_WAITALL)
        data.sendall(step.data)
        if not step.stalling:
            data.close()
        control.sendall(f"{step.end}\r\n".encode(self.encoding) if step.end else b"")
        return bool(step.end) or step.stalling
