"""nginx before a model server: TLS, a password, and a login that may ask, but not give orders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_serving_reload.demo.processes import ProcessError, Processes
from tests.contract.bench import PASSWORD, USER, Address
from tests.contract.certificates import Authority
from tests.contract.nginx import START_ATTEMPTS, free_ports, wait_for_port
from tests.requirements import require_program

READER = "reader"

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
  # who has not logged in is asked to
  map $remote_user $may_order {{ {user} 1; "" 1; default 0; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    auth_basic "model server";
    auth_basic_user_file passwords;
    location / {{ proxy_pass {url}; }}
    location /v2/repository/ {{
      error_page 418 = @forbidden;
      if ($may_order = 0) {{ return 418; }}
      proxy_pass {url};
    }}
    location @forbidden {{ return 403; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx.

    :param address: where it speaks HTTPS.
    :param authority: file with the certificate that signs its own.
    """

    address: Address
    authority: Path

    @classmethod
    def start(cls, processes: Processes, folder: Path, url: str) -> Self:
        """Start it, and wait until it answers.

        :param processes: owns it.
        :param folder: where its configuration goes.
        :param url: the server behind it.
        """
        program = require_program("nginx", "nginx-light")
        authority = Authority(folder)
        certificate, key = authority.issue(folder)
        (folder / "passwords").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n{READER}:{{PLAIN}}{PASSWORD}\n")
        for attempt in range(1, START_ATTEMPTS + 1):
            (port,) = free_ports(1)
            (folder / "nginx.conf").write_text(
                CONFIGURATION.format(port=port, certificate=certificate, key=key, url=url, user=USER)
            )
            command = [str(program), "-p", str(folder), "-c", str(folder / "nginx.conf")]
            server = processes.start("nginx", command, log=folder / "output.log")
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
        return cls(address, authority.certificate)
