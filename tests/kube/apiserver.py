"""A Kubernetes API server as a program: `python -m tests.kube.apiserver`. (IO)

Prints `ready url=… control=…`. The first address is the API server, with whatever is wrong with it; the second is the
same API for tests, who are never refused nor on record there, and under `/-/` what makes things go wrong.
It is a fake: one process, nothing kept on disk, no controllers, no webhooks called.
"""

from __future__ import annotations

import argparse
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import yaml

from tests.kube.apiserver_api import Answer, Api, Request, Watch, answer
from tests.kube.apiserver_faults import Fault
from tests.kube.apiserver_store import Refusal, Tree, shown, told
from tests.kube.apiserver_table import partial, table

CONTROL = "/-/"
FIXTURES = Path(__file__).parent / "crds"
HUGE = 32 << 20
"""Bytes of a line that is too long for anybody."""


class Server(ThreadingHTTPServer):
    """A listener and its connections, which can be cut all at once."""

    daemon_threads = True
    request_queue_size = 512
    block_on_close = False

    def __init__(self, port: int, handler: type[Handler], tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.sockets: set[socket.socket] = set()
        self.cut = False
        super().__init__(("127.0.0.1", port), handler)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.cut = True
        self.shutdown()
        self.server_close()
        for each in list(self.sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            if self.tls is not None:
                request.settimeout(10)
                request = self.tls.wrap_socket(request, server_side=True)
                request.settimeout(None)
            self.sockets.add(request)
            super().finish_request(request, client_address)
        except (OSError, ssl.SSLError):
            return  # who asked is gone, or does not trust us
        finally:
            self.sockets.discard(request)
            if isinstance(request, ssl.SSLSocket):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class World:
    """What both listeners share, and what goes on at them."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.api = Api()
        self.tls = tls
        self.watches: list[Watch] = []
        self.bookmark_s = 60.0
        self.user = "system:serviceaccount:default:infer-gateway"
        self.server: Server | None = None
        self.port = 0

    def open(self, port: int) -> int:
        handler = type("ApiHandler", (Handler,), {"world": self, "admin": False})
        self.server = Server(port, handler, self.tls)
        self.port = self.server.server_address[1]
        self.server.start()
        return self.port

    def close(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            server.stop()
            with self.api.store.changed:
                self.api.store.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    world: World
    admin: bool
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, query, headers, body, self.admin, self.world.user)
        result: Answer | Watch
        try:
            if self.admin and url.path.startswith(CONTROL):
                result = answer(200, control(self.world, url.path.removeprefix(CONTROL), request))
            else:
                self._authenticate(headers)
                result = self.world.api.handle(request)
        except Refusal as refusal:
            result = answer(refusal.code, refusal.status(), refusal.headers)
        except Exception as wrong:  # noqa: BLE001 - a defect of the fake: said to both who asks and who tests
            traceback.print_exc()
            result = answer(500, Refusal(500, "InternalError", f"the fake server failed: {wrong!r}").status())
        if isinstance(result, Watch):
            Stream(self, result).run()
        else:
            self._answer(result)

    def _authenticate(self, headers: dict[str, str]) -> None:
        tokens = self.world.api.trouble.tokens
        if self.admin or not tokens or self._has_certificate():
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or token.strip() not in tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _has_certificate(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket) and bool(self.connection.getpeercert())

    def _answer(self, result: Answer) -> None:
        if result.delay:
            time.sleep(result.delay)
        if result.drop:
            self.close_connection = True
            return
        self.send_response(result.code)
        for name, value in {"Content-Type": "application/json", **result.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(result.body)))
        self.end_headers()
        self.wfile.write(result.body)
        self.wfile.flush()


class Stream:
    """One watch under way."""

    def __init__(self, handler: Handler, watch: Watch) -> None:
        self.handler, self.watch = handler, watch
        self.api, self.store = handler.world.api, handler.world.api.store
        self.at = watch.version
        self.over = self.stalled = False
        self.headed = False
        self.started = self.spoke = time.monotonic()

    def run(self) -> None:
        world, handler = self.handler.world, self.handler
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        handler.close_connection = True
        fault = self.watch.fault
        if fault is not None and fault.mode:
            self.watch.orders.append(asdict(fault))
        elif fault is not None:
            time.sleep(fault.delay)
        world.watches.append(self.watch)
        try:
            self._orders()
            if not self.stalled and not self.over and self.watch.initial:
                self._write(*(self._event("ADDED", entry.tree) for entry in self.watch.initial))
            self._follow()
        except OSError:
            return
        finally:
            world.watches.remove(self.watch)

    def _follow(self) -> None:
        while not self.over and not self.handler.server.cut and not self._left():
            with self.store.changed:
                if self.store.version == self.at and not self.watch.orders:
                    self.store.changed.wait(0.2)
                changes, now_at = [], self.store.version
                if not self.stalled and self._is_behind():
                    try:
                        changes = self.store.since(self.watch.resource.store, self.at)
                    except Refusal as gone:
                        self._write(self._line("ERROR", gone.status()))
                        break
                    self.at = now_at
            if changes:
                lines = [self._event(kind, entry.tree) for kind, entry in told(changes, self.watch.match)]
                self._write(*lines)
            self._orders()
            self._idle()
        self._end()

    def _is_behind(self) -> bool:
        return self.at < self.store.version or self.at < self.store.compacted

    def _idle(self) -> None:
        """Bookmarks now and then, and the end when the time is over."""
        since = time.monotonic()
        over = self.watch.timeout is not None and since - self.started >= self.watch.timeout
        if self.stalled:
            return
        if self.watch.bookmarks and (over or since - self.spoke >= self.handler.world.bookmark_s):
            self._bookmark()
        self.over = self.over or over

    def _left(self) -> bool:
        """Whether the client has gone: it has nothing to say on a watch but that."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.handler.connection, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _orders(self) -> None:
        while self.watch.orders and not self.over:
            order = self.watch.orders.pop(0)
            getattr(self, f"_do_{order['mode']}")(order)

    def _do_stall(self, order: Tree) -> None:
        self.stalled = True

    def _do_resume(self, order: Tree) -> None:
        self.stalled = False

    def _do_close(self, order: Tree) -> None:
        self.over = True

    def _do_reset(self, order: Tree) -> None:
        raise ConnectionResetError

    def _do_gone(self, order: Tree) -> None:
        refusal = Refusal(410, "Expired", f"too old resource version: {self.at} ({self.store.version})")
        self._write(self._line("ERROR", refusal.status()))
        self.over = True

    def _do_error(self, order: Tree) -> None:
        fault = Fault(
            status=order.get("status") or 500, reason=order.get("reason", ""), message=order.get("message", "")
        )
        self._write(self._line("ERROR", fault.refusal().status()))
        self.over = True

    def _do_garbage(self, order: Tree) -> None:
        self._write((order.get("text") or '{"type":"MODIFIED","object":{]').encode() + b"\n")

    def _do_huge(self, order: Tree) -> None:
        size = order.get("bytes") or HUGE
        self._write(b'{"type":"MODIFIED","object":{"metadata":{"name":"' + b"x" * size + b'"}}}\n')

    def _do_truncate(self, order: Tree) -> None:
        self._write(b'{"type":"MODIFIED","object":{"kind":"' + self.watch.resource.kind.encode() + b'","metad')
        raise ConnectionResetError

    def _do_bookmark(self, order: Tree) -> None:
        self._bookmark()

    def _bookmark(self) -> None:
        resource = self.watch.resource
        metadata = {"resourceVersion": str(self.at), "creationTimestamp": None}
        self._write(
            self._line("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})
        )

    def _event(self, kind: str, tree: Tree) -> bytes:
        resource = self.watch.resource
        tree = shown(tree, resource)
        if self.watch.shape == "Table":
            tree = table(resource, [tree], {"resourceVersion": tree["metadata"]["resourceVersion"]}, not self.headed)
            self.headed = True
        elif self.watch.shape:
            tree = partial(tree)
        return self._line(kind, tree)

    def _line(self, kind: str, tree: Tree) -> bytes:
        return msgspec.json.encode({"type": kind, "object": tree}) + b"\n"

    def _write(self, *lines: bytes) -> None:
        self.spoke = time.monotonic()
        data = b"".join(lines)
        if data:
            self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.handler.wfile.flush()

    def _end(self) -> None:
        if not self.handler.server.cut:
            self.handler.wfile.write(b"0\r\n\r\n")
            self.handler.wfile.flush()


# -- what tests say


def control(world: World, what: str, request: Request) -> Tree:
    """Carries out one order of a test. Raises Refusal for what is unknown."""
    given: Tree = msgspec.json.decode(request.body) if request.body else {}
    order = ORDERS.get(what)
    if order is None:
        raise Refusal(404, "NotFound", f"no order {what!r}; there are {sorted(ORDERS)}")
    try:
        return order(world, given)
    except (KeyError, TypeError, ValueError) as wrong:
        raise Refusal(400, "BadRequest", f"{what}: {wrong!r}") from wrong


def _fail(world: World, given: Tree) -> Tree:
    if given.get("mode") not in (None, "drop") and not hasattr(Stream, f"_do_{given['mode']}"):
        raise ValueError(given["mode"])
    with world.api.trouble.lock:
        world.api.trouble.faults.append(Fault(**given))
    return {}


def _heal(world: World, given: Tree) -> Tree:
    with world.api.trouble.lock:
        world.api.trouble.faults.clear()
    return {}


def _streams(world: World, given: Tree) -> Tree:
    """Gives an order to the watches under way of a resource; says how many there are."""
    resource, namespace = given.get("resource", "*"), given.get("namespace", "*")
    with world.api.store.changed:
        found = [watch for watch in list(world.watches) if watch.asked.is_of("watch", resource, namespace)]
        if given.get("mode"):
            if not hasattr(Stream, f"_do_{given['mode']}"):
                raise ValueError(given["mode"])
            for watch in found:
                watch.orders.append(given)
            world.api.store.changed.notify_all()
    listed = [{"resource": each.asked.full, "namespace": each.namespace, "name": each.asked.name} for each in found]
    return {"watches": listed}


def _outage(world: World, given: Tree) -> Tree:
    if given.get("down", True):
        world.close()
    elif world.server is None:
        world.open(world.port)
    return {}


def _compact(world: World, given: Tree) -> Tree:
    world.api.trouble.gone_as_status = bool(given.get("status"))
    return {"version": world.api.store.compact()}


def _load(world: World, given: Tree) -> Tree:
    trees = given.get("items") or []
    return {"loaded": world.api.load(trees, given.get("check", True)), "version": world.api.store.version}


def _requests(world: World, given: Tree) -> Tree:
    trouble = world.api.trouble
    with trouble.lock:
        record = list(trouble.record)
        if given.get("forget"):
            trouble.record.clear()
    return {"requests": record}


def _rights(world: World, given: Tree) -> Tree:
    """``deny``: VERB:RESOURCE[:NAMESPACE], all of them; ``rules``: PolicyRules that allow, None for everything."""
    trouble = world.api.trouble
    if "deny" in given:
        trouble.denied = [denial(each) for each in given["deny"]]
    if "rules" in given:
        trouble.rules = given["rules"]
    if "tokens" in given:
        trouble.tokens = given["tokens"]
    world.user = given.get("user", world.user)
    return {}


def _settings(world: World, given: Tree) -> Tree:
    world.bookmark_s = float(given.get("bookmark_s", world.bookmark_s))
    with world.api.store.changed:
        world.api.store.changed.notify_all()
    return {"version": world.api.store.version}


ORDERS = {
    "fail": _fail,
    "heal": _heal,
    "streams": _streams,
    "outage": _outage,
    "compact": _compact,
    "load": _load,
    "requests": _requests,
    "rights": _rights,
    "settings": _settings,
}


def denial(text: str) -> tuple[str, str, str]:
    verb, resource, namespace = [*text.split(":"), "*"][:3]
    return verb, resource, namespace


# -- the program


def certified(directory: Path) -> ssl.SSLContext:
    """TLS with a certificate authority of its own; `ca.crt`, `client.crt` and `client.key` are left in a directory."""
    import trustme

    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.crt")
    client = authority.issue_cert("client@example.com", common_name="client")
    client.private_key_pem.write_to_path(directory / "client.key")
    for blob in client.cert_chain_pems:
        blob.write_to_path(directory / "client.crt", append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def definitions(directory: Path) -> list[Tree]:
    """The custom resource definitions in the YAML files of a directory."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    trees = [tree for path in sorted(directory.glob("*.yaml")) for tree in yaml.load_all(path.read_text(), loader)]
    return [tree for tree in trees if tree and tree.get("kind") == "CustomResourceDefinition"]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", type=Path, help="serve TLS; its certificates are left in this directory")
    parser.add_argument(
        "--token", action="append", default=[], help="who asks has to bring one of these, or a certificate"
    )
    parser.add_argument("--deny", action="append", default=[], metavar="VERB:RESOURCE[:NAMESPACE]")
    parser.add_argument("--crds", type=Path, action="append", default=[], help="definitions to start with, too")
    parser.add_argument("--bare", action="store_true", help="without the definitions that tests bring")
    return parser


def main() -> int:
    given = arguments().parse_args()
    world = World(certified(given.tls) if given.tls else None)
    world.api.trouble.tokens = given.token
    world.api.trouble.denied = [denial(each) for each in given.deny]
    try:
        for directory in [*([] if given.bare else [FIXTURES]), *given.crds]:
            world.api.load(definitions(directory))
    except Refusal as refusal:
        print(refusal.message, file=sys.stderr)
        return 1
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    world.open(given.port)
    admin = Server(0, type("AdminHandler", (Handler,), {"world": world, "admin": True}))
    admin.start()
    scheme = "https" if given.tls else "http"
    print(f"ready url={scheme}://127.0.0.1:{world.port} control=http://127.0.0.1:{admin.server_address[1]}", flush=True)
    ended.wait()
    world.close()
    admin.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
