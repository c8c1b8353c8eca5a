"""nginx in front of a gateway, its connections to it kept and shared by all clients. (IO)

It passes on what it does not understand (invalid names, underscores), as a careless operator would have it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.process import eventually

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (Debian: nginx-light)")

CONFIGURATION = """
daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log error;
events {{ worker_connections 512; }}
http {{
  log_format ids '$http_x_request_id'; access_log {directory}/ids ids;
  client_max_body_size 64m; underscores_in_headers on; ignore_invalid_headers off; merge_slashes off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream gateway {{ server {gateway}; keepalive 1; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off; proxy_read_timeout 10s;
  server {{ listen 127.0.0.1:{held}; location / {{ proxy_pass http://gateway; }} }}
  server {{
    listen 127.0.0.1:{passing}; proxy_request_buffering off; proxy_buffering off;
    location / {{ proxy_pass http://gateway; }}
  }}
}}
"""


@contextmanager
def nginx(directory: Path, gateway: str) -> Iterator[tuple[list[tuple[str, int]], Path]]:
    """Two addresses, of which one holds a request until it is whole and one passes on what comes; and a file that gets
    a line for every request: its x-request-id.
    """
    ports = _free(2)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(directory=directory, gateway=gateway, held=ports[0], passing=ports[1])
    )
    process = subprocess.Popen(["nginx", "-p", str(directory), "-c", str(configuration)], stderr=subprocess.PIPE)
    try:
        addresses = [("127.0.0.1", port) for port in ports]
        assert eventually(lambda: all(map(_open, addresses))), process.poll()
        yield addresses, directory / "ids"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def _free(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _open(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, 1.0):
        return True
    return False
