"""Real FTP servers, pyftpdlib and vsftpd, and the bench on either."""

from __future__ import annotations

import ftplib
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS, FilesystemError
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from airflow_serving_reload.delivery.stores.ftp import FtpOverTls, FtpStore
from airflow_serving_reload.demo.processes import Child, ProcessError, Processes
from tests.requirements import require, require_program

from .bench import PASSWORD, USER, Address, FolderBench, NetworkBench
from .certificates import Authority
from .ftp_proxy import FtpCuttingProxy
from .nginx import START_ATTEMPTS, wait_for_port

# Far beyond what an answer takes: it only turns a hang into a failure.
TIMEOUT = 20

EVERYTHING = "elradfmwMT"
READING = "elr"


class Folder(AbstractedFS):
    """A folder that is entered without a change of the folder of this whole process."""

    def chdir(self, path: str) -> None:
        """Enter a folder."""
        os.scandir(path).close()
        self.cwd = self.fs2ftp(path)


class WindowsFolder(Folder):
    """A folder that is listed as Windows does, and in which no rename replaces a file."""

    def rename(self, src: str, dst: str) -> None:
        """Rename a file."""
        if Path(dst).exists():
            raise FilesystemError("Cannot create a file when that file already exists")
        super().rename(src, dst)

    def format_list(self, basedir: str, listing: list[str], ignore_err: bool = True) -> Iterator[bytes]:
        """List a folder."""
        for name in listing:
            path = Path(basedir, name)
            status = path.stat()
            moment = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%m-%d-%y  %I:%M%p")
            column = f"{'<DIR>':<15}" if path.is_dir() else f"{status.st_size:>14} "
            yield f"{moment}       {column}{name}\r\n".encode(errors="surrogateescape")


class PyFtpServer:
    """A pyftpdlib that runs in a thread of its own, with all of a folder for one user and to read for anonymous ones.

    :param folder: what it serves.
    :param without: commands that it does not know.
    :param port: where it listens; 0 for any that is free.
    :param attributes: attributes of its handler.
    """

    def __init__(
        self,
        folder: Path,
        *,
        handler: type[FTPHandler] = FTPHandler,
        without: Sequence[str] = (),
        port: int = 0,
        **attributes: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authorizer = DummyAuthorizer()
        self.authorizer.add_user(USER, PASSWORD, str(folder), perm=EVERYTHING)
        self.authorizer.add_anonymous(str(folder), perm=READING)
        self.folder = folder
        self.handler = handler
        self.commands: list[str] = []
        """Everything that clients said, in order."""
        known = {name: facts for name, facts in FTPHandler.proto_cmds.items() if name not in without}
        if issubclass(handler, TLS_FTPHandler):
            known |= {name: handler.proto_cmds[name] for name in ("AUTH", "PBSZ", "PROT")}
        defaults = {"authorizer": self.authorizer, "auth_failed_timeout": 0, "proto_cmds": known}
        attributes = {"abstracted_fs": Folder, **defaults, **attributes}

        def pre_process_command(this: FTPHandler, line: str, cmd: str, arg: str) -> None:
            self.commands.append(line)
            handler.pre_process_command(this, line, cmd, arg)

        own = type("OwnHandler", (handler,), {**attributes, "pre_process_command": pre_process_command})
        self._server = FTPServer(("127.0.0.1", port), own, ioloop=IOLoop())
        self.address = Address("127.0.0.1", self._server.address[1])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._ending.is_set():
            self._server.ioloop.loop(0.02, blocking=False)
        self._server.close_all()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve until the end of the `with` block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            self._thread.join()

    def connections(self) -> int:
        """Count the control connections."""
        return sum(isinstance(handler, FTPHandler) for handler in list(self._server.ioloop.socket_map.values()))


def tls_handler(authority: Authority, folder: Path, **attributes: Any) -> dict[str, Any]:
    """Give the arguments that make a pyftpdlib take nothing but TLS, for logins and for data."""
    certificate, key = authority.issue(folder)
    files = {"certfile": str(certificate), "keyfile": str(key), "ssl_context": None}
    return {
        "handler": TLS_FTPHandler,
        "tls_control_required": True,
        "tls_data_required": True,
        **files,
        **attributes,
    }


def dying(server: PyFtpServer, after: int) -> dict[str, Any]:
    """Give the arguments that make a pyftpdlib like another one shut down in the middle of a file.

    :param after: bytes of the file that it sends before.
    """
    kind = server.handler.dtp_handler

    class Dying(kind):  # type: ignore[misc, valid-type]
        def send(self, data: bytes) -> int:
            sent: int = super().send(data)
            if self.tot_bytes_sent >= after:
                self.cmd_channel.server.close_all()
            return sent

    return {"dtp_handler": Dying, "use_sendfile": False}


VSFTPD_CONFIGURATION = """
listen=YES
listen_ipv6=NO
listen_address=127.0.0.1
listen_port={port}
background=NO
anonymous_enable=YES
anon_root={folder}/public
local_enable=YES
guest_enable=YES
guest_username=ftp
virtual_use_local_privs=YES
local_root={folder}/files
chroot_local_user=YES
allow_writeable_chroot=YES
secure_chroot_dir={folder}/empty
pam_service_name=vsftpd
check_shell=NO
session_support=NO
write_enable=YES
local_umask=000
delay_failed_login=0
delay_successful_login=0
idle_session_timeout={idle_seconds}
xferlog_enable=YES
xferlog_std_format=NO
log_ftp_protocol=YES
vsftpd_log_file={folder}/log
seccomp_sandbox=NO
"""

VSFTPD_TLS = """
ssl_enable=YES
allow_anon_ssl=YES
force_local_data_ssl=YES
force_local_logins_ssl=YES
require_ssl_reuse=YES
ssl_ciphers=HIGH
rsa_cert_file={certificate}
rsa_private_key_file={key}
"""


@dataclass(frozen=True, slots=True)
class Vsftpd:
    """A running vsftpd: a user with a password for one folder, and anonymous ones for another.

    :param folder: with the folders `files` and `public`, and the file `log`.
    :param address: where it listens.
    """

    folder: Path
    address: Address

    @classmethod
    @contextmanager
    def running(
        cls, processes: Processes, authority: Authority | None = None, *, idle_seconds: int = 300
    ) -> Iterator[Self]:
        """Start vsftpd, and end it with the `with` block.

        :param authority: signs its certificate; it then takes nothing but TLS.
        :param idle_seconds: after so long without a command it closes a connection.
        """
        program = require_program("vsftpd", "vsftpd")
        wrapper = require_library("libpam_wrapper.so", "libpam-wrapper")
        require(os.geteuid() == 0, "needs root: vsftpd changes to the user ftp")
        # not below pytest's own folder, which the user ftp may not enter
        folder = Path(tempfile.mkdtemp(prefix="vsftpd-"))
        try:
            folder.chmod(0o755)
            for name, mode in (("files", 0o777), ("public", 0o755), ("empty", 0o755)):
                (folder / name).mkdir()
                (folder / name).chmod(mode)
            environment = _pam(folder, wrapper)
            server, address = _start(processes, folder, [*environment, str(program)], authority, idle_seconds)
            try:
                yield cls(folder, address)
            finally:
                processes.end(server)
        finally:
            shutil.rmtree(folder)


def _start(
    processes: Processes, folder: Path, command: list[str], authority: Authority | None, idle_seconds: int
) -> tuple[Child, Address]:
    tls = ""
    if authority:
        certificate, key = authority.issue(folder)
        tls = VSFTPD_TLS.format(certificate=certificate, key=key)
    for attempt in range(1, START_ATTEMPTS + 1):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = Address("127.0.0.1", taken.getsockname()[1])
        configuration = folder / "vsftpd.conf"
        text = VSFTPD_CONFIGURATION.format(folder=folder, port=address.port, idle_seconds=idle_seconds)
        configuration.write_text(text + tls)
        server = processes.start("vsftpd", [*command, str(configuration)], log=folder / "output.log")
        try:
            wait_for_port(processes, server, address)
        except ProcessError:
            processes.end(server)
            # somebody else may have taken the port since
            if attempt == START_ATTEMPTS or "could not bind" not in server.last_lines():
                raise
        else:
            return server, address
    raise AssertionError


def _pam(folder: Path, wrapper: Path) -> list[str]:
    """Make a user with a password, whom only this server knows, and give the command that lets it know."""
    (folder / "users").write_text(f"{USER}:{PASSWORD}:vsftpd\n")
    services = folder / "pam.d"
    services.mkdir()
    module = f"{wrapper.parent}/pam_wrapper/pam_matrix.so passdb={folder}/users"
    for service in ("vsftpd", "other"):
        (services / service).write_text("".join(f"{kind} required {module}\n" for kind in ("auth", "account")))
    return ["env", f"LD_PRELOAD={wrapper}", "PAM_WRAPPER=1", f"PAM_WRAPPER_SERVICE_DIR={services}"]


def require_library(name: str, package: str) -> Path:
    """Find a shared library of the system."""
    found = next(Path("/usr/lib").glob(f"*/{name}"), None)
    require(found, f"needs the library {name}: install the package {package}")
    return Path(str(found))


class FtpBench(FolderBench, NetworkBench):
    """A store over FTP on a folder of this host.

    :param folder: what the server serves.
    :param address: where it listens.
    :param authority: signs the server's certificate, if it takes TLS.
    :param anonymous: whether to log in as nobody in particular.
    :param encoding: of names.
    """

    def __init__(
        self,
        folder: Path,
        address: Address,
        *,
        authority: Authority | None = None,
        anonymous: bool = False,
        encoding: str = "utf-8",
    ) -> None:
        self.address = address
        self.passive = True
        self._authority = authority
        self._anonymous = anonymous
        self._encoding = encoding
        self._proxies: list[FtpCuttingProxy] = []
        super().__init__(folder, self.connect())

    def proxy(self, **arguments: Any) -> FtpCuttingProxy:
        """Make a proxy before the server; `connect` knows it by its address."""
        proxy = FtpCuttingProxy(self.address, **arguments)
        self._proxies.append(proxy)
        return proxy

    def connect(
        self, address: Address | None = None, *, password: str | None = None, timeout: float = TIMEOUT
    ) -> FtpStore:
        """Open another store on the same files, without pauses."""
        host, port = address or self.address
        proxy = next((proxy for proxy in self._proxies if proxy.address == address), None)

        def connected() -> ftplib.FTP:
            client = self._client(proxy)
            client.set_pasv(self.passive)
            try:
                client.connect(host, port, timeout)
                if self._anonymous:
                    client.login()
                else:
                    client.login(USER, password or PASSWORD)
                if isinstance(client, ftplib.FTP_TLS):
                    client.prot_p()
            except BaseException:
                client.close()
                raise
            return client

        store = FtpStore(connected, f"ftp://{host}:{port}")
        store.resume_pauses = (0, 0, 0)
        return store

    def _client(self, proxy: FtpCuttingProxy | None) -> ftplib.FTP:
        kind: type[ftplib.FTP] = FtpOverTls if self._authority else ftplib.FTP
        arguments: dict[str, Any] = {"encoding": self._encoding}
        if self._authority:
            arguments["context"] = ssl.create_default_context(cafile=self._authority.certificate)
        return _through(proxy, kind)(**arguments) if proxy else kind(**arguments)


def _through(proxy: FtpCuttingProxy, kind: type[ftplib.FTP]) -> type[ftplib.FTP]:
    """Make a kind of client whose data connections go through the proxy too."""

    class Client(kind):  # type: ignore[misc, valid-type]
        def makepasv(self) -> tuple[str, int]:
            _, port = super().makepasv()
            return proxy.way_to(port, self.sock.getsockname()[1])

    return Client
