"""A real HDFS on this host and the genuine client for it, out of jars that Maven brings.

Run as a program it brings the jars into the user's cache, unless they are there already.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar
from xml.sax.saxutils import escape
from zipfile import ZipFile

import requests
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificate
from hdfs import HdfsError, InsecureClient

from airflow_serving_reload.demo.processes import Child, ProcessError, Processes
from tests.requirements import require, require_program

from .bench import USER, Address
from .certificates import Authority

Started = TypeVar("Started")

POM = Path(__file__).parent / "hadoop-jars" / "pom.xml"

# Far beyond what a start takes: it only turns a hang into a failure.
START_SECONDS = 120
START_ATTEMPTS = 5

LOW_START_UP = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
"""Flags of Java that spare programs of a second what only pays after minutes."""

IMPATIENT_WRITER = {
    "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": 10,
    "dfs.client.block.write.locateFollowingBlock.retries": 12,
}
"""Settings by which who has written a file asks again sooner than after 400 ms whether the DataNode has reported it.

It is hardly ever the first time; each further pause is twice as long.
"""

NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
SHELL = "org.apache.hadoop.fs.FsShell"

OF_THE_CLIENT = (
    *("commons-", "hadoop-annotations-", "hadoop-auth-", "hadoop-common-", "hadoop-hdfs-client-", "hadoop-shaded-"),
    *("httpclient-", "httpcore-", "jsr305-", "re2j-", "reload4j-", "slf4j-", "stax2-", "woodstox-"),
)
"""How the names of the jars begin that the client needs; it looks into each that it is given whenever it starts."""

STORE_PASSWORD = "changeit"

LOG4J = """\
log4j.rootLogger={level},console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{{ISO8601}} %p %c{{1}}: %m%n
"""


def jars_folder() -> Path:
    """Give the folder of the jars that the project file names, whether they are there or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "airflow-serving-reload" / f"hadoop-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def bring_jars() -> None:
    """Bring the jars by Maven; they appear all at once."""
    target = jars_folder()
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary, "jars")
        command = ["mvn", "--batch-mode", "--quiet", "--file", str(POM), "dependency:copy-dependencies"]
        subprocess.run([*command, f"-DoutputDirectory={folder}", "-DincludeScope=runtime"], check=True)
        folder.rename(target)


@dataclass(frozen=True, slots=True)
class Hadoop:
    """Java, and the jars of Hadoop."""

    java: Path
    jars: Path

    @classmethod
    def find(cls) -> Self:
        """Find both; without them the test is skipped."""
        java = require_program("java", "default-jre-headless")
        jars = jars_folder()
        require(
            jars.is_dir(),
            "needs the jars of Hadoop: install Maven (package maven) and run `make hadoop-jars`, as `make test` does",
        )
        return cls(java, jars)

    def command(self, configuration: Path, main: str, *arguments: str) -> list[str]:
        """Compose the command that runs a program of Hadoop.

        :param configuration: folder with its configuration.
        :param main: its class.
        """
        return [str(self.java), *LOW_START_UP, "-Xmx256m", "-cp", f"{configuration}:{self.jars}/*", main, *arguments]

    def write_client(self, folder: Path, settings: Mapping[str, object] | None = None) -> Path:
        """Make a Hadoop client's folder and give its program `bin/hadoop`, which knows `hadoop fs`.

        :param folder: new folder for it.
        :param settings: of its `core-site.xml`.
        """
        configuration = folder / "etc" / "hadoop" / "core-site.xml"
        configuration.parent.mkdir(parents=True)
        write_settings(configuration, {"dfs.replication": 1, **IMPATIENT_WRITER, **(settings or {})})
        command = shlex.join(self._shell(f"-XX:SharedArchiveFile={self._shared_classes}", "-Xlog:disable"))
        script = folder / "bin" / "hadoop"
        script.parent.mkdir()
        script.write_text(
            "#!/bin/sh\n"
            "# The part of Hadoop's own script that `hadoop fs` needs.\n"
            "[ \"$1\" = fs ] || { echo \"$0: only 'fs' is here, not '$1'\" >&2; exit 1; }\n"
            "shift\n"
            f'exec {command} -conf {shlex.quote(str(configuration))} "$@"\n'
        )
        script.chmod(0o755)
        return script

    def share_classes(self, file_system: str) -> None:
        """Keep the classes of the client in the form in which Java has them in memory: it starts in half the time.

        :param file_system: in which a file is copied, so that all of them are loaded.
        """
        if self._shared_classes.exists():
            return
        self._client_folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._client_folder) as temporary:
            archive = Path(temporary, "classes.jsa")
            command = [*self._shell(f"-XX:ArchiveClassesAtExit={archive}"), "-D", f"fs.defaultFS={file_system}"]
            subprocess.run([*command, "-put", "-", "/classes"], check=True, input=b"1", capture_output=True)
            archive.unlink(missing_ok=True)
            subprocess.run([*command, "-cp", "/classes", "/loaded"], check=True, capture_output=True)
            archive.replace(self._shared_classes)

    @property
    def _client_folder(self) -> Path:
        return self.jars.with_name(f"{self.jars.name}-client")

    @property
    def _shared_classes(self) -> Path:
        java = self.java.resolve()
        told_by = f"{java}{java.stat().st_mtime_ns}{self._class_path()}"
        return self._client_folder / f"{hashlib.sha256(told_by.encode()).hexdigest()[:12]}.jsa"

    def _class_path(self) -> str:
        """Name the jars of the client, and one with its settings: classes are shared only if all are out of jars."""
        jars = sorted(jar for jar in self.jars.glob("*.jar") if jar.name.startswith(OF_THE_CLIENT))
        return ":".join(map(str, [*jars, self._client_folder / "settings.jar"]))

    def _shell(self, *flags: str) -> list[str]:
        """Compose the command of the client."""
        settings = self._client_folder / "settings.jar"
        if not settings.exists():
            self._client_folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=settings.parent, delete=False) as file, ZipFile(file, "w") as archive:
                archive.writestr("core-site.xml", "<configuration/>")
                archive.writestr("log4j.properties", LOG4J.format(level="WARN"))
            Path(file.name).replace(settings)
        return [str(self.java), *LOW_START_UP, *flags, "-Xmx256m", "-cp", self._class_path(), SHELL]


@dataclass(frozen=True, slots=True)
class NameNode:
    """A running NameNode.

    :param rpc: where it speaks Hadoop's own protocol.
    :param http: where it speaks WebHDFS.
    :param https: where it speaks WebHDFS over TLS.
    """

    process: Child
    rpc: Address
    http: Address
    https: Address


@dataclass(frozen=True, slots=True)
class DataNode:
    """A running DataNode.

    :param transfer: where it speaks Hadoop's own protocol for data.
    :param http: where it speaks WebHDFS.
    """

    process: Child
    transfer: Address
    http: Address


@dataclass(slots=True)
class Hdfs:
    """A running HDFS of one NameNode and one DataNode, in which permissions count and everybody may write to `/`.

    :param folder: where its configuration and files are.
    :param authority: file with the certificate that signs those of its servers.
    :param administrator: a client, by WebHDFS, as the user to whom permissions do not apply.
    """

    hadoop: Hadoop
    folder: Path
    namenode: NameNode
    datanode: DataNode
    authority: Path
    administrator: InsecureClient

    @property
    def url(self) -> str:
        """The file system's name, as `fs.defaultFS` has it."""
        return "hdfs://{}:{}".format(*self.namenode.rpc)

    @classmethod
    def start(cls, processes: Processes, folder: Path) -> Self:
        """Start both nodes and wait until files can be written.

        :param processes: owns them.
        :param folder: where their configuration and files go.
        """
        hadoop = Hadoop.find()
        authority = Authority(folder)
        tls = _tls_settings(folder, authority)

        def start() -> Self:
            namenode, settings = _start_namenode(processes, hadoop, folder / "namenode", tls)
            settings = settings | {
                "dfs.datanode.data.dir": folder / "datanode" / "data",
                "dfs.datanode.hostname": "127.0.0.1",
                "dfs.datanode.address": "127.0.0.1:0",
                "dfs.datanode.ipc.address": "127.0.0.1:0",
                "dfs.datanode.http.address": "127.0.0.1:0",
                "dfs.datanode.https.address": "127.0.0.1:0",
                # it is started together with the NameNode, and so has to wait for it
                "ipc.client.connect.retry.interval": 100,
                # it writes what comes by WebHDFS
                **IMPATIENT_WRITER,
            }
            configuration = _configure(folder / "datanode", settings, tls)
            command = hadoop.command(configuration, DATANODE)
            process = processes.start("DataNode", command, log=folder / "datanode.log")
            administrator = InsecureClient("http://{}:{}".format(*namenode.http), user=getpass.getuser(), timeout=10)
            try:
                processes.wait_until(lambda: _takes_files(administrator), namenode.process, seconds=START_SECONDS)
            except ProcessError:
                processes.end(process, kill=True)
                processes.end(namenode.process, kill=True)
                raise
            administrator.set_permission("/", "777")
            return cls(hadoop, folder, namenode, _datanode(namenode, process), authority.certificate, administrator)

        return _on_free_ports(start)

    def write_client(self, folder: Path, settings: Mapping[str, object] | None = None) -> Path:
        """Make a Hadoop client's folder and give its program `bin/hadoop`, which knows this file system.

        :param folder: new folder for it.
        :param settings: further ones.
        """
        self.hadoop.share_classes(self.url)
        return self.hadoop.write_client(folder, {"fs.defaultFS": self.url, **(settings or {})})

    def start_standby(self, processes: Processes) -> NameNode:
        """Start a NameNode that knows of this one, stands by, and turns every request down.

        :param processes: owns it.
        """
        folder = self.folder / "standby"
        active = self.namenode
        highly_available = {
            "dfs.nameservices": "models",
            "dfs.ha.namenode.id": "standby",
            "dfs.ha.namenodes.models": "active,standby",
            "dfs.namenode.rpc-address.models.active": "{}:{}".format(*active.rpc),
            "dfs.namenode.http-address.models.active": "{}:{}".format(*active.http),
            "dfs.namenode.https-address.models.active": "{}:{}".format(*active.https),
            "dfs.namenode.shared.edits.dir": (folder / "shared").as_uri(),
        }
        tls = _tls_settings(self.folder, None)

        def start() -> NameNode:
            standby, _ = _start_namenode(
                processes, self.hadoop, folder, tls, suffix=".models.standby", more=highly_available
            )
            client = InsecureClient("http://{}:{}".format(*standby.http), user=getpass.getuser(), timeout=10)
            try:
                processes.wait_until(lambda: _stands_by(client), standby.process, seconds=START_SECONDS)
            except ProcessError:
                processes.end(standby.process, kill=True)
                raise
            return standby

        return _on_free_ports(start)

    @contextmanager
    def stopped(self, processes: Processes) -> Iterator[None]:
        """End the NameNode until the end of the `with` block, from where on it answers again at the same addresses.

        :param processes: owns it.
        """
        processes.end(self.namenode.process)
        try:
            yield
        finally:
            command = self.hadoop.command(self.folder / "namenode" / "configuration", NAMENODE)
            process = processes.start("NameNode", command, log=self.folder / "namenode.log")
            self.namenode = replace(self.namenode, process=process)
            processes.wait_until(lambda: _takes_files(self.administrator), process, seconds=START_SECONDS)

    def clear(self) -> None:
        """Remove every file and folder."""
        for name in self.administrator.list("/"):
            self.administrator.delete(f"/{name}", recursive=True)


def _start_namenode(
    processes: Processes,
    hadoop: Hadoop,
    folder: Path,
    tls: Mapping[str, object],
    *,
    suffix: str = "",
    more: Mapping[str, object] | None = None,
) -> tuple[NameNode, dict[str, object]]:
    """Format and start a NameNode; gives the settings by which others find it.

    :param suffix: what its own addresses are told by, among those of several.
    :param more: further settings.
    """
    rpc, http, https = (Address("127.0.0.1", port) for port in _free_ports(3))
    settings = {
        f"dfs.namenode.rpc-address{suffix}": "{}:{}".format(*rpc),
        f"dfs.namenode.http-address{suffix}": "{}:{}".format(*http),
        f"dfs.namenode.https-address{suffix}": "{}:{}".format(*https),
        "dfs.namenode.name.dir": (folder / "names").as_uri(),
        "dfs.http.policy": "HTTP_AND_HTTPS",
        "dfs.replication": 1,
        # after a start it takes files as soon as it knows where those that it has are
        "dfs.namenode.safemode.extension": 0,
        # everybody may do everything, but where a test says otherwise
        "fs.permissions.umask-mode": "000",
        # users whom this host does not know
        "hadoop.user.group.static.mapping.overrides": f"{getpass.getuser()}=administrators;{USER}=trainers",
        **(more or {}),
    }
    configuration = _configure(folder, settings, tls)
    arguments = ("-format", "-force", "-nonInteractive")
    log = folder.with_suffix(".log")
    processes.run(
        "NameNode -format", hadoop.command(configuration, NAMENODE, *arguments), log=log, seconds=START_SECONDS
    )
    process = processes.start("NameNode", hadoop.command(configuration, NAMENODE), log=log)
    return NameNode(process, rpc, http, https), settings


def _configure(folder: Path, settings: Mapping[str, object], tls: Mapping[str, object]) -> Path:
    """Write the configuration of a node and give its folder."""
    configuration = folder / "configuration"
    for pages in ("hdfs", "datanode", "static"):
        # the nodes do not start without the folders of their web pages
        (configuration / "webapps" / pages).mkdir(parents=True, exist_ok=True)
    for name in ("core-site.xml", "hdfs-site.xml"):
        write_settings(configuration / name, settings)
    write_settings(configuration / "ssl-server.xml", tls)
    (configuration / "log4j.properties").write_text(LOG4J.format(level="INFO"))
    return configuration


def _tls_settings(folder: Path, authority: Authority | None) -> dict[str, object]:
    """Give the settings by which a node finds its certificate, which an authority makes first."""
    store = folder / "keys.p12"
    if authority is not None:
        certificate, key = authority.issue(folder)
        store.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"node",
                load_pem_private_key(key.read_bytes(), None),  # type: ignore[arg-type] - of all kinds, it is one that fits
                load_pem_x509_certificate(certificate.read_bytes()),
                None,
                BestAvailableEncryption(STORE_PASSWORD.encode()),
            )
        )
    return {
        "ssl.server.keystore.location": store,
        "ssl.server.keystore.type": "pkcs12",
        "ssl.server.keystore.password": STORE_PASSWORD,
        "ssl.server.keystore.keypassword": STORE_PASSWORD,
    }


def _takes_files(client: InsecureClient) -> bool:
    try:
        client.write("/ready", b"1", overwrite=True)
        return bool(client.delete("/ready"))
    except (HdfsError, requests.RequestException):
        return False


def _stands_by(client: InsecureClient) -> bool:
    try:
        client.status("/")
    except HdfsError as error:
        return error.exception == "StandbyException"
    except requests.RequestException:
        pass
    return False


def _datanode(namenode: NameNode, process: Child) -> DataNode:
    """Ask the NameNode where its DataNode listens."""
    query = {"qry": "Hadoop:service=NameNode,name=NameNodeInfo"}
    answer = requests.get("http://{}:{}/jmx".format(*namenode.http), query, timeout=10).json()
    [node] = json.loads(answer["beans"][0]["LiveNodes"]).values()
    return DataNode(process, _address(node["xferaddr"]), _address(node["infoAddr"]))


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in taken]


def _on_free_ports(start: Callable[[], Started]) -> Started:
    """Start something anew for as long as somebody else takes its ports first."""
    for _ in range(START_ATTEMPTS):
        try:
            return start()
        except ProcessError as error:
            if "Address already in use" not in str(error):
                raise
            taken = error
    raise taken


def write_settings(file: Path, settings: Mapping[str, object]) -> None:
    """Write one of Hadoop's files of settings."""
    properties = "".join(
        f"<property><name>{escape(name)}</name><value>{escape(str(value))}</value></property>\n"
        for name, value in settings.items()
    )
    file.write_text(f"<configuration>\n{properties}</configuration>\n")


if __name__ == "__main__":
    bring_jars()
