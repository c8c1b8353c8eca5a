"""A Redis that answers too much, or nonsense: it is left at once, told of in a line, and no request minds."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.faults.crooked import Crooked
from tests.faults.parrot_redis import ParrotRedis, Said, bulk, granted, requests
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, written

MOST_MIB = 40
"""By how much memory may grow over all that is said here, which is without end; what one answer may be is 8."""


class Stage(NamedTuple):
    gateway: InferGateway
    redis: ParrotRedis
    reload: Callable[[str], None]

    @property
    def there(self) -> bool:
        page = httpx.get(f"http://{self.gateway.ready['admin']}/metrics", timeout=30.0).text
        return "infer_gateway_store_connected 1.0\n" in page

    def resident_mib(self) -> int:
        pages = Path(f"/proc/{self.gateway.process.pid}/statm").read_text().split()[1]  # type: ignore[union-attr]
        return int(pages) * 4096 >> 20

    def status(self) -> int:
        body = {"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = raw.exchange(self.gateway.address, raw.post(CHAT, body, "connection: close"))
        assert answer is not None
        return answer.status


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("redis")
    redis = ParrotRedis()
    with Crooked(redis) as server, simulate("vllm", "m") as calm:

        def configured(prefix: str) -> str:
            """Another prefix begins anew: who was left is not left alone for longer and longer."""
            state = {"redis": {"url": f"redis://127.0.0.1:{server.port}", "timeout": "5s", "prefix": prefix}}
            limits = [{"match": {"model": CALM}, "requestsPerDay": 1_000_000, "concurrentRequests": 1000}]
            return written(directory, pool(CALM, [calm]), settings(state=state, limits=limits))

        with serve("-c", configured("start")) as gateway:

            def reload(prefix: str) -> None:
                before = gateway.stderr.count("configuration reloaded")
                configured(prefix)
                gateway.signal(signal.SIGHUP)
                assert eventually(lambda: gateway.stderr.count("configuration reloaded") > before)

            stage = Stage(gateway, redis, reload)
            assert eventually(lambda: stage.there and "replicas meet" in gateway.stderr, 30.0)
            yield stage


def endless(first: bytes, again: bytes) -> Callable[[list[bytes]], Said]:
    return lambda words: itertools.chain([first], itertools.repeat(again))


def just(said: bytes) -> Callable[[list[bytes]], Said]:
    return lambda words: [said]


BATCH: dict[str, tuple[Callable[[list[bytes]], Said], str]] = {
    "a text without an end": (endless(b"$1000000000\r\n", b"x" * 65536), "more than 8 MiB"),
    "a line without an end": (endless(b"+", b"x" * 65536), "more than 8 MiB"),
    "a list without an end": (endless(b"*1000000000\r\n", b":1\r\n" * 10_000), "more than 100000 parts"),
    "one in the other without an end": (endless(b"", b"*1\r\n" * 10_000), "more than 100000 parts"),
    "another kind": (just(b":5\r\n"), "not understood"),
    "no RESP": (just(b":five\r\n"), "not understood"),
    "no batch": (just(bulk(b"\x92\xca")), "not understood"),
    "another batch": (just(bulk(b"\x92\xcb\x40\x00\x00\x00\x00\x00\x00\x00\x90")), "not understood"),
    "no number": (lambda words: [granted(words[-1], wait=float("nan"))], "not understood"),
    "for ever": (lambda words: [granted(words[-1], wait=float("inf"))], "not understood"),
    "a long refusal": (just(b"-ERR " + b"no " * 100_000 + b"\r\n"), "…"),
}


def test_answers_to_a_batch(stage: Stage) -> None:
    with unharmed(stage.gateway):
        for index, (name, (odd, why)) in enumerate(BATCH.items()):
            stage.reload(f"batch-{index}")
            assert eventually(lambda: stage.there, 30.0), name
            said, before = [0], stage.resident_mib()

            def once(
                words: list[bytes], odd: Callable[[list[bytes]], Said] = odd, said: list[int] = said
            ) -> Said | None:
                """To the first that bears a request."""
                if words[0] != b"EVALSHA" or said[0] or not requests(words[-1]):
                    return None
                said[0] += 1
                return odd(words)

            told = len(stage.gateway.stderr)
            stage.redis.odd = once
            assert stage.status() == 200, name
            assert eventually(lambda: "is away" in stage.gateway.stderr[told:]), name  # noqa: B023
            line = next(each for each in stage.gateway.stderr[told:].splitlines() if "is away" in each)
            assert why in line or "no answer within" in line, (name, line)  # a machine busy with something else
            assert len(line) < 600, name
            assert eventually(lambda: stage.there, 30.0), name
            assert stage.resident_mib() - before < MOST_MIB, name


MESSAGES: dict[str, Callable[[list[bytes]], Said]] = {
    "a text without an end": endless(b"$1000000000\r\n", b"x" * 65536),
    "another kind": just(b":5\r\n"),
    "other members": just(b"%1\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n5-5\r\n:7\r\n"),
    "no id": just(b"%1\r\n$1\r\nk\r\n*1\r\n*2\r\n$4\r\nnone\r\n*2\r\n$1\r\nm\r\n$1\r\nx\r\n"),
}


def test_what_replicas_are_said_to_have_told(stage: Stage) -> None:
    """What makes no sense of what was told before is passed over the next time."""
    with unharmed(stage.gateway):
        for index, (name, odd) in enumerate(MESSAGES.items()):
            stage.redis.odd = lambda words, odd=odd: (  # type: ignore[misc]
                odd(words) if words[0] == b"XREAD" and b"BLOCK" not in words else None
            )
            before, told = stage.resident_mib(), len(stage.gateway.stderr)
            stage.reload(f"messages-{index}")
            assert eventually(lambda: "replicas are not heard" in stage.gateway.stderr[told:]), name  # noqa: B023
            assert eventually(lambda: "replicas meet" in stage.gateway.stderr[told:]), name  # noqa: B023
            assert stage.status() == 200
            assert stage.resident_mib() - before < MOST_MIB, name
