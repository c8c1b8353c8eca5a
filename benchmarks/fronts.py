"""What is measured: the gateway, nginx and peers in front of the same engine, and the engine itself. (IO)

Invariant: every front gets the same upstream and the same core, and nginx keeps its upstream connections alive.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from processes import ENGINE_CORE, FRONT_CORE, Program, free_port, wait_listening
from upstream import METRICS, MODELS_JSON, VERSION_JSON, WHOLE_JSON

# Commands of routers that some machines have; {upstream} is a URL, {port} the port to listen on.
PEERS: Mapping[str, str] = {
    "smg": "smg launch --worker-urls {upstream} --host 127.0.0.1 --port {port}",
    "vllm-router": "vllm-router --worker-urls {upstream} --host 127.0.0.1 --port {port}",
}

_NGINX = """\
{user}worker_processes 1;
daemon off;
pid {folder}/pid;
error_log stderr error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type application/json;
{http}
}}
"""

_PROXY = """\
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout 600s;
      proxy_buffering {buffering};
    }}
  }}
"""


def _canned(port: int) -> str:
    pages = {"/v1/models": MODELS_JSON, "/version": VERSION_JSON, "/metrics": METRICS, "/health": " ", "/": WHOLE_JSON}
    exact = "\n".join(
        f"    location {'= ' if path != '/' else ''}{path} {{ return 200 '{text}'; }}" for path, text in pages.items()
    )
    return f"  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n{exact}\n  }}\n"


@contextmanager
def _nginx(name: str, http: str, port: int, core: int, folder: Path) -> Iterator[Program]:
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    assert nginx is not None
    home = folder / f"nginx-{port}"
    home.mkdir()
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(_NGINX.format(user=user, folder=home, http=http))
    with Program(name, [nginx, "-p", str(home), "-c", str(home / "nginx.conf")], core, ready=False) as program:
        wait_listening(program, port)
        yield program


def has_nginx() -> bool:
    """Whether nginx is on PATH, or where distributions put it."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") is not None


@contextmanager
def canned_engine(folder: Path) -> Iterator[int]:
    """nginx answering one canned chat completion: the cheapest engine there is. Yields its port."""
    port = free_port()
    with _nginx("canned engine", _canned(port), port, ENGINE_CORE, folder):
        yield port


@contextmanager
def engine(
    binary: Path | None, *, tokens: int = 128, pace_us: int = 0, per_write: int = 1, event_bytes: int = 200
) -> Iterator[int]:
    """The fake engine, compiled if it can be. Yields its port."""
    program = [str(binary)] if binary else [sys.executable, str(Path(__file__).with_name("upstream.py"))]
    arguments = [str(value) for value in (0, tokens, pace_us, per_write, event_bytes)]
    with Program("engine", [*program, *arguments], ENGINE_CORE) as running:
        yield int(running.words[1])


class Front:
    """One running thing under test: where it listens and the process to measure (None: the engine itself)."""

    def __init__(self, name: str, port: int, program: Program | None) -> None:
        self.name = name
        self.port = port
        self.program = program


def gateway_command(template: str | None, upstream: int) -> list[str]:
    """The gateway's command, or another's that prints `ready http=HOST:PORT`."""
    url = f"http://127.0.0.1:{upstream}"
    if template:
        return shlex.split(template.format(upstream=url, port=0))
    addresses = [word for name in ("http", "grpc", "admin") for word in (f"--{name}", "127.0.0.1:0")]
    script = Path(sys.executable).with_name("infer-gateway")
    return [str(script), "serve", "--backend", f"vllm={url}", *addresses]


@contextmanager
def gateway(template: str | None, upstream: int, *more: str) -> Iterator[Front]:
    """The gateway with its default settings in front of one engine; ``more`` arguments."""
    with Program("gateway", [*gateway_command(template, upstream), *more], FRONT_CORE) as program:
        yield Front("gateway", int(program.word("http").rpartition(":")[2]), program)


@contextmanager
def nginx(upstream: int, folder: Path, *, buffering: bool) -> Iterator[Front]:
    """nginx as a reverse proxy with one worker."""
    port = free_port()
    http = _PROXY.format(upstream=upstream, port=port, buffering="on" if buffering else "off")
    with _nginx("nginx", http, port, FRONT_CORE, folder) as program:
        yield Front("nginx", port, program)


@contextmanager
def peer(name: str, template: str, upstream: int) -> Iterator[Front]:
    """Another router."""
    port = free_port()
    argv = shlex.split(template.format(upstream=f"http://127.0.0.1:{upstream}", port=port))
    with Program(name, argv, FRONT_CORE, ready=False) as program:
        wait_listening(program, port)
        yield Front(name, port, program)


@contextmanager
def fronts(
    upstream: int, folder: Path, *, template: str | None, peers: Mapping[str, str], buffering: bool, direct: bool
) -> Iterator[list[Front]]:
    """All of them in front of one engine: the yardsticks first, the gateway last."""
    with contextlib.ExitStack() as stack:
        running = [Front("direct", upstream, None)] if direct else []
        if has_nginx():
            running.append(stack.enter_context(nginx(upstream, folder, buffering=buffering)))
        for name, command in peers.items():
            running.append(stack.enter_context(peer(name, command, upstream)))
        running.append(stack.enter_context(gateway(template, upstream)))
        yield running
