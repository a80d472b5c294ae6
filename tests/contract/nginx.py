"""A real nginx with one location for each kind of server that a store may meet."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_serving_reload.demo.processes import Child, ProcessError, Processes
from tests.requirements import require_program

from .bench import PASSWORD, USER, Address
from .certificates import Authority

# Far beyond what a start takes: it only turns a hang into a failure.
START_SECONDS = 60
START_ATTEMPTS = 5

VARIANTS = {
    "full": "",
    "without-tags": "etag off;",
    "without-ranges": "max_ranges 0;",
    "without-times": 'etag off; add_header Last-Modified "";',
    "without-listings": "autoindex off;",
    "without-moves": "dav_methods PUT DELETE;",
    "without-uploads": "dav_methods off;",
    "with-password": "auth_basic store; auth_basic_user_file passwords;",
    "small-uploads": "client_max_body_size 100k;",
    "counted": "access_log counted.log combined;",
    "slow": "limit_rate 2m;",
    "slow-without-ranges": "limit_rate 2m; max_ranges 0;",
    "two-at-once-503": "limit_rate 2m; limit_conn clients 2;",
    "two-at-once-429": "limit_rate 2m; limit_conn clients 2; limit_conn_status 429;",
}
"""Location to how its server differs from one that offers everything."""

STATUSES = (400, 401, 403, 404, 407, 409, 410, 425, 429, 451, 500, 501, 502, 503, 504, 505, 507, 511, 520)
"""Answered by the location `answers`, whatever is asked."""

CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 128; }}
http {{
  access_log off;
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  client_max_body_size 0;
  default_type application/octet-stream;
  types {{ text/html html; }}
  limit_conn_zone $binary_remote_addr zone=clients:1m;
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root files;
    autoindex on;
    dav_methods PUT DELETE MOVE;
    create_full_put_path on;
    location ~ /forbidden$ {{ deny all; }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /full/$1 redirect; }}
    location /around/ {{ return 302 $request_uri; }}
    location /without-models/ {{ alias files/with-password/models/; location ~ [.]tar$ {{ deny all; }} }}
    {locations}
  }}
}}
"""


@dataclass(slots=True)
class Nginx:
    """A running nginx.

    :param files: the folder with a folder for each variant.
    :param address: where it speaks HTTP.
    :param tls_address: where it speaks HTTPS.
    :param authority: file with the certificate that signs its own.
    """

    files: Path
    address: Address
    tls_address: Address
    authority: Path
    process: Child

    @classmethod
    def start(cls, processes: Processes, folder: Path) -> Self:
        """Start nginx and wait until it answers.

        :param processes: owns it.
        :param folder: where its configuration and files go.
        """
        files = folder / "files"
        for variant in VARIANTS:
            (files / variant).mkdir(parents=True)
        authority = Authority(folder)
        certificate, key = authority.issue(folder)
        (folder / "passwords").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        locations = [f"location /{name}/ {{ {directives} }}" for name, directives in VARIANTS.items()]
        locations += [f"location /answers/{status}/ {{ return {status}; }}" for status in STATUSES]
        for attempt in range(1, START_ATTEMPTS + 1):
            port, tls_port = free_ports(2)
            (folder / "nginx.conf").write_text(
                CONFIGURATION.format(
                    port=port, tls_port=tls_port, certificate=certificate, key=key, locations="\n    ".join(locations)
                )
            )
            server = _launch(processes, folder)
            address = Address("127.0.0.1", port)
            try:
                wait_for_port(processes, server, address)
            except ProcessError:
                processes.end(server)
                # somebody else may have taken the port since
                if attempt == START_ATTEMPTS or "Address already in use" not in server.last_lines():
                    raise
            else:
                break
        return cls(files, address, Address("127.0.0.1", tls_port), authority.certificate, server)

    @contextmanager
    def stopped(self, processes: Processes) -> Iterator[None]:
        """End nginx until the end of the `with` block, from where on it answers again at the same address.

        :param processes: owns it.
        """
        processes.end(self.process)
        try:
            yield
        finally:
            self.process = _launch(processes, self.files.parent)
            wait_for_port(processes, self.process, self.address)


def _launch(processes: Processes, folder: Path) -> Child:
    program = require_program("nginx", "nginx-light")
    command = [str(program), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return processes.start("nginx", command, log=folder / "output.log")


def wait_for_port(processes: Processes, server: Child, address: Address) -> None:
    """Wait until a server takes connections."""

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(address) == 0

    processes.wait_until(answers, server, seconds=START_SECONDS)


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
