"""A run ends, and says of every case what came of it, whatever the server does."""

import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import pytest
import trio
import trio.testing

from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.shown import Secrets
from conformance.suite.target import CHAT, MODELS, Setup, Target
from conformance.suite.wire import Address

Script = Callable[[trio.SocketStream], Awaitable[None]]
OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"a": [1]}\n'


@asynccontextmanager
async def scripted(script: Script):  # type: ignore[no-untyped-def]
    """A server that does to each connection what the script says."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await script(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield Setup(Address("127.0.0.1", port), "vllm", model="m", key="sk-secret", timeout=5.0)
        nursery.cancel_scope.cancel()


def fresh() -> Profile:
    return Profile("openai", "of this test")


def asks(profile: Profile, name: str = "asks", **how: object) -> None:
    @profile.case(name, "the answer has a list", source="this test", **how)  # type: ignore[arg-type]
    async def asks(target: Target) -> None:
        answer = await target.ask(MODELS)
        check.equal(check.member(answer.expect(200).json, "a.0"), 1, "the first of the list")


async def play(setup: Setup, profile: Profile, **how: object) -> dict[str, Result]:
    results = await Runner(setup, {}).run(list(profile), **how)  # type: ignore[arg-type]
    return {result.case: result for result in results}


async def always_ok(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        await stream.send_all(OK)


async def silent(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        pass


async def one(script: Script, **how: object) -> Result:
    profile = fresh()
    asks(profile)
    async with scripted(script) as setup:
        return (await play(setup, profile, **how))["openai.asks"]


def test_a_case_that_holds() -> None:
    result = trio.run(one, always_ok)
    assert (result.kind, result.message, result.exchanges) == (Kind.PASSED, "", ())


def answering(data: bytes) -> Script:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(data)

    return script


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "closed|ended|broke"),
        (b"HTTP/1.1 2", "ended|closed|not valid"),
        (b"SSH-2.0-x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "ended inside"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[}", "not JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nNaN", "not JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "no 'a.0'"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}", "status is 503, not 200"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000, "not valid HTTP|ended|closed"),
    ],
)
def test_what_a_bad_server_gets_told(data: bytes, said: str) -> None:
    result = trio.run(one, answering(data))
    assert result.kind is Kind.FAILED
    check.matches(result.message, said, "what is said")
    assert result.exchanges[0].method == "GET"


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "again", "said"),
    [
        (CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n", "more than 33554432 bytes came"),
        (CHUNKED, b"8000\r\n" + b": x\n\nab\n" * 4096 + b"\r\n", "more than 33554432 bytes came|not valid HTTP"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, "interim answers"),
        (CHUNKED + b"5;", b"x=" + b"a" * 65536, "not valid HTTP"),
    ],
)
def test_an_answer_without_end_is_given_up(head: bytes, again: bytes, said: str) -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(head)
        while True:
            await stream.send_all(again)

    result = trio.run(one, endless)
    assert result.kind is Kind.FAILED
    check.matches(result.message, said, "what is said")
    assert len(repr(result)) < 20_000


def test_what_a_polled_page_took_is_given_back() -> None:
    async def main() -> int:
        async with scripted(always_ok) as setup:
            target = Target(setup)
            for _ in range(3):
                await target.ask(MODELS)
            before = target.ration.left
            target.forget(0)
            assert len(target.traces) == 2
            return target.ration.left - before

    assert trio.run(main) == 11


def test_a_server_that_is_not_there() -> None:
    async def main() -> dict[str, Result]:
        async with scripted(always_ok) as setup:
            pass
        profile = fresh()
        asks(profile)
        return await play(setup, profile)

    result = trio.run(main)["openai.asks"]
    assert result.kind is Kind.FAILED
    assert "no connection" in result.message


def test_a_hanging_server_is_given_up_and_soon_with_less_patience() -> None:
    async def main() -> float:
        profile = fresh()
        for number in range(20):
            asks(profile, f"case-{number}")
        async with scripted(silent) as setup:
            began = trio.current_time()
            found = await play(setup, profile, parallel=2)
        assert all("not done after" in result.message for result in found.values())
        assert "no answer yet" in found["openai.case-0"].message
        return trio.current_time() - began

    # two wait for 5 s, the others for 2
    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05)) == pytest.approx(5 + 9 * 2, abs=0.5)


def test_a_limit_ends_the_run_and_the_report_stays_complete() -> None:
    async def main() -> dict[str, Result]:
        profile = fresh()
        for number in range(6):
            asks(profile, f"case-{number}")
        async with scripted(silent) as setup:
            return await play(setup, profile, parallel=2, limit=1.0)

    found = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
    assert len(found) == 6
    assert all("the run's time was over" in result.message for result in found.values())


def test_a_run_that_was_stopped_before_it_began_asks_nothing() -> None:
    async def main() -> list[Result]:
        profile = fresh()
        asks(profile)
        async with scripted(always_ok) as setup:
            runner = Runner(setup)
            with runner.until_stopped():
                runner.stop("SIGINT ended the run")
                await trio.sleep_forever()
            return await runner.run(list(profile))

    (result,) = trio.run(main)
    assert (result.kind, result.message) == (Kind.FAILED, "not finished: SIGINT ended the run")


def test_what_no_case_foresaw_is_a_failure_and_the_run_goes_on() -> None:
    async def main() -> dict[str, Result]:
        profile = fresh()

        @profile.case("stumbles", "it reads what is not there", source="this test")
        async def stumbles(target: Target) -> None:
            {}["choices"]

        @profile.case("several", "its tasks fail", source="this test")
        async def several(target: Target) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(target.ask, "/nowhere")
                await trio.lowlevel.checkpoint()
                check.fail("on purpose")

        asks(profile)
        async with scripted(always_ok) as setup:
            return await play(setup, profile)

    found = trio.run(main)
    assert "KeyError" in found["openai.stumbles"].message
    assert found["openai.several"].message == "on purpose"
    assert found["openai.asks"].kind is Kind.PASSED


def test_needs_skips_and_levels() -> None:
    async def main() -> dict[str, Result]:
        profile = fresh()
        asks(profile, "needs", needs=("lora", "grpc"))
        asks(profile, "given", needs=("key",))

        @profile.case("skips", "it does not apply", source="this test", level=Level.INFO)
        async def skips(target: Target) -> None:
            target.note("learned")
            target.skip("not here")

        async with scripted(always_ok) as setup:
            return await play(setup, profile)

    found = trio.run(main)
    assert (found["openai.needs"].kind, found["openai.needs"].message) == (Kind.SKIPPED, "needs --lora, --grpc")
    assert found["openai.given"].kind is Kind.PASSED
    assert (found["openai.skips"].message, found["openai.skips"].notes) == ("not here", ("learned",))


def test_cases_that_want_to_be_alone_are() -> None:
    async def main() -> int:
        profile = fresh()
        under_way, most = 0, {True: 0, False: 0}

        def count(name: str, alone: bool) -> None:
            @profile.case(name, "", source="this test", alone=alone)
            async def counts(target: Target) -> None:
                nonlocal under_way
                under_way += 1
                most[alone] = max(most[alone], under_way)
                await trio.sleep(1)
                under_way -= 1

        for number in range(4):
            count(f"alone-{number}", True)
            count(f"beside-{number}", False)
        await play(Setup(Address("127.0.0.1", 1), "vllm"), profile, parallel=3)
        assert most == {True: 1, False: 3}
        return most[True]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_deviations_are_forgiven_only_if_the_server_answered() -> None:
    async def main(script: Script) -> Result:
        profile = fresh()
        asks(profile)
        async with scripted(script) as setup:
            (result,) = await Runner(setup, {"openai.a*": "its lists are empty"}).run(list(profile))
        return result

    deviated = trio.run(main, answering(b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a":[]}'))
    assert deviated.kind is Kind.DEVIATED
    assert deviated.message.startswith("its lists are empty [")
    assert trio.run(main, answering(b"")).kind is Kind.FAILED
    better = trio.run(main, always_ok)
    assert (better.kind, better.message) == (Kind.PASSED, "foretold to deviate, but does not: its lists are empty")


def test_an_info_is_told_and_never_held_against_anybody() -> None:
    async def main(script: Script) -> Result:
        profile = fresh()
        asks(profile, level=Level.INFO)
        async with scripted(script) as setup:
            return (await play(setup, profile))["openai.asks"]

    told = trio.run(main, answering(b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a":[]}'))
    assert (told.kind, told.message) == (Kind.NOTED, "the answer has no 'a.0'")
    assert trio.run(main, answering(b"")).kind is Kind.FAILED


def test_keys_are_in_nothing_that_is_shown() -> None:
    async def echoes(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(
            b"HTTP/1.1 401 No\r\nx-echo: sk-secret\r\nset-cookie: a=b\r\ncontent-length: 13\r\n\r\nBad sk-secret"
        )

    result = trio.run(one, echoes)
    assert "sk-secret" not in repr(result.exchanges)
    assert '-H "authorization: Bearer $API_KEY"' in result.exchanges[0].command
    assert result.exchanges[0].answer == "Bad $API_KEY"


ODD = "sk-\"odd'key\\ $x"


@pytest.mark.parametrize("key", ["sk-secret", ODD])
def test_keys_that_an_answer_repeats_are_in_no_part_of_a_result(key: str) -> None:
    async def main() -> Result:
        profile = fresh()

        @profile.case("told", "it says what it got", source="this test")
        async def told(target: Target) -> None:
            target.note(f"limited by {target.setup.extra['limited_key']}")
            answer = await target.ask(CHAT, target.chat(f"I am {key}"), key=target.setup.extra["limited_key"])
            check.equal(check.member(answer.json, "said"), "nothing", f"what {key} is told")

        body = json.dumps({"said": json.dumps({"key": key, "other": "sk-limited"})}).encode()
        async with scripted(
            answering(b"HTTP/1.1 200 OK\r\nx: sk-limited\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        ) as at:
            setup = msgspec.structs.replace(at, key=key, extra={"limited_key": "sk-limited"})
            return (await play(setup, profile))["openai.told"]

    result = trio.run(main)
    shown = json.dumps(json.dumps(msgspec.to_builtins(result))) + repr(result)
    assert "sk-" not in shown
    assert "what $API_KEY is told" in result.message
    assert result.notes == ("limited by $LIMITED_KEY",)
    assert '-H "authorization: Bearer $LIMITED_KEY"' in result.exchanges[0].command


def test_a_key_that_is_cut_is_hidden_as_well() -> None:
    secrets = Secrets(Setup(Address("h", 80), "vllm", key="sk-0123456789"))
    assert secrets.hide("it was sk-01234… (900 characters)") == "it was $API_KEY… (900 characters)"


def test_a_key_made_up_by_a_case_stands_in_its_command() -> None:
    async def main() -> str:
        profile = fresh()

        @profile.case("wrong", "a wrong key", source="this test")
        async def wrong(target: Target) -> None:
            (await target.ask(MODELS, key="sk-wrong")).expect(401)

        async with scripted(always_ok) as setup:
            return (await play(setup, profile))["openai.wrong"].exchanges[0].command

    assert "'authorization: Bearer sk-wrong'" in trio.run(main)


def test_the_command_repeats_the_request() -> None:
    async def main() -> str:
        profile = fresh()

        @profile.case("posts", "it posts", source="this test")
        async def posts(target: Target) -> None:
            (await target.ask(CHAT, target.chat("it's \u00e4"))).expect(400)

        async with scripted(always_ok) as setup:
            return (await play(setup, profile))["openai.posts"].exchanges[0].command

    command = trio.run(main)
    assert "/v1/chat/completions" in command
    assert "--data-binary '" in command
    assert "it'\"'\"'s ä" in command


@pytest.mark.parametrize(
    ("root", "path", "wanted"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/v1", "/v1/models", "/v1/models"),
        ("/v1", "/metrics", "/metrics"),
        ("/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
        ("/team/a", "/v1/models", "/team/a/v1/models"),
        ("/team/a/v1", "/health", "/team/a/health"),
    ],
)
def test_where_paths_are(root: str, path: str, wanted: str) -> None:
    assert Target(Setup(Address("h", 80, root=root), "openai")).path(path) == wanted
