"""A gateway told to stop before it is ready: who is being served is served, and nobody is told that it is ready."""

from __future__ import annotations

import signal
import socket

from tests.process import eventually, serve
from tests.whole import raw


def test_a_request_under_way_is_finished_though_no_engine_has_answered_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()
    request = raw.post("/v1/chat/completions", {}, "expect: 100-continue")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        backend = f"vllm=http://127.0.0.1:{mute.getsockname()[1]}"
        gateway = serve("--http", f"127.0.0.1:{address[1]}", "--backend", backend)
        gateway.start()
        try:
            assert eventually(lambda: not raw.refuses(address))
            with raw.connect(address) as connection, raw.Reader(connection) as reader:
                connection.sendall(request[:-2])
                assert reader.head() == (100, {})
                gateway.signal(signal.SIGTERM)
                assert eventually(lambda: raw.refuses(address))
                mute.close()  # discovery has its answer: nobody is there
                connection.sendall(request[-2:])
                answer = reader.answer()
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (400, "close")
            assert gateway.wait() == 0
            assert gateway.process is not None
            assert gateway.process.stdout is not None
            assert gateway.process.stdout.read() == b""
        finally:
            gateway.close()
    assert "Traceback" not in gateway.log
