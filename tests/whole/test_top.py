"""`infer-gateway top` in a terminal: what is on it, what keys do, and that it is given back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway.topfeed import HEAD, Admin, decision, endpoint, event, hello, serving, state
from tests.process import ROOT, InferGateway, run
from tests.whole.terminal import Terminal

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202ename\r\n\x9b1m"


class Changing:
    """A state that a test changes."""

    def __init__(self) -> None:
        self.members: dict[str, object] = {}

    def event(self) -> bytes:
        return event("state", state(**self.members))


@pytest.fixture(scope="module")
def fake() -> Iterator[Admin]:
    with serving(HEAD + event("hello", hello()), lambda: event("state", state())) as admin:
        yield admin


def assert_given_back(terminal: Terminal) -> None:
    assert terminal.modes == terminal.before
    assert not terminal.alternate
    assert terminal.received.rindex("\x1b[?25h") > terminal.received.rindex("\x1b[?25l")


def test_keys_choose_sort_filter_hold_and_leave() -> None:
    now = Changing()
    many = [endpoint(f"10.0.0.{at}:1", kv=at / 100) for at in range(60)]
    with serving(HEAD + event("hello", hello(state(endpoints=many))), now.event) as admin:
        now.members = {"endpoints": many}
        with Terminal("top", "--admin", admin.url, "--interval", "0.05") as terminal:
            terminal.shows("10.0.0.5:1")
            assert terminal.alternate
            assert terminal.modes != terminal.before
            terminal.press("\x1b[F")
            terminal.shows("10.0.0.59:1")
            terminal.press("/0.42:\r")
            terminal.shows_not("10.0.0.59:1")
            terminal.shows("10.0.0.42:1")
            terminal.press("\x1b")
            terminal.shows("10.0.0.5:1")
            terminal.press("sssss")
            terminal.shows("by KV usage")
            terminal.shows("10.0.0.59:1")
            terminal.press("2")
            terminal.shows("batch")
            terminal.press("p")
            terminal.shows(" held ")
            now.members = {"generation": 77}
            terminal.press("?")
            terminal.shows("hold the picture")
            terminal.shows_not("q quit")  # nor anything else of the picture before
            assert "generation 77" not in terminal.text
            terminal.press("xp")
            terminal.shows("generation 77")
            terminal.press("q")
            assert terminal.ended() == 0
            assert_given_back(terminal)
            assert terminal.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_and_the_terminal_is_given_back(fake: Admin, number: signal.Signals) -> None:
    with Terminal("top", "--admin", fake.url) as terminal:
        terminal.shows("all is well")
        terminal.signal(number)
        assert terminal.ended() == 0
        assert_given_back(terminal)


def test_it_can_be_stopped_and_goes_on(fake: Admin) -> None:
    with Terminal("top", "--admin", fake.url) as terminal:
        terminal.shows("all is well")
        terminal.press("\x1a")
        terminal.stopped()
        terminal.wait(lambda: not terminal.alternate)
        assert_given_back(terminal)
        terminal.signal(signal.SIGCONT)
        terminal.wait(lambda: terminal.alternate and "all is well" in terminal.text)
        assert terminal.modes != terminal.before
        terminal.press("\x03")
        assert terminal.ended() == 0
        assert_given_back(terminal)


def test_a_crash_gives_the_terminal_back() -> None:
    broken = "import gateway.top.live as l, sys; l.press = None; from gateway.cli import main; sys.exit(main())"
    with (
        serving(HEAD + event("hello", hello())) as admin,
        Terminal("top", "--admin", admin.url, program=("-c", broken), crashes=True) as terminal,
    ):
        terminal.shows("all is well")
        terminal.press("x")
        assert terminal.ended() == 4
        assert_given_back(terminal)
        assert "TypeError" in terminal.stderr


def test_it_follows_the_terminals_size_and_needs_no_keys(fake: Admin) -> None:
    with Terminal("top", "--admin", fake.url, keys=False, columns=170, lines=50) as terminal:
        terminal.shows("because")
        terminal.resize(60, 12)
        terminal.shows_not("because")
        terminal.wait(lambda: len(terminal.rows) == 12)
        assert max(map(len, terminal.rows.values())) <= 60
        terminal.signal(signal.SIGTERM)
        assert terminal.ended() == 0


@pytest.mark.parametrize(("colour", "coloured"), [({"NO_COLOR": "1"}, False), ({}, True)])
def test_colours_can_be_refused(fake: Admin, colour: dict[str, str], coloured: bool) -> None:
    with Terminal("top", "--once", "--admin", fake.url, **colour) as terminal:
        assert terminal.ended() == 0
        assert ("\x1b[32m" in terminal.received) == coloured
        assert "10.0.0.2:8000" in terminal.text
        assert not terminal.alternate


def test_a_terminal_that_can_do_nothing_gets_a_snapshot(fake: Admin) -> None:
    with Terminal("top", "--admin", fake.url, TERM="dumb") as terminal:
        assert terminal.ended() == 0
        assert "\x1b" not in terminal.received
        assert "10.0.0.2:8000" in terminal.text


def test_a_gateway_that_goes_and_comes_back() -> None:
    with (
        serving(HEAD + event("hello", hello()), lambda: event("state", state())) as admin,
        Terminal("top", "--admin", admin.url, "--interval", "0.05") as terminal,
    ):
        terminal.shows("all is well")
        admin.first, again, admin.again = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", admin.again, None
        admin.hang_up()
        terminal.shows("the gateway demands a token")
        assert "no news since " in terminal.text
        assert "10.0.0.2:8000" in terminal.text
        admin.first, admin.again = HEAD + event("hello", hello(version="0.10")), again
        terminal.shows("infer-gateway 0.10")
        terminal.shows("all is well")
        terminal.press("q")
        assert terminal.ended() == 0


def test_hostile_strings_do_not_reach_the_terminal() -> None:
    shown = state(endpoints=[endpoint(HOSTILE, why=HOSTILE)], decisions=[decision(HOSTILE)], problems=[HOSTILE])
    with serving(HEAD + event("hello", hello(shown, version=HOSTILE))) as admin:
        with Terminal("top", "--admin", admin.url, columns=170) as terminal:
            terminal.shows("name")  # the terminal knows only the sequences that we write, and asserts it
            assert "\u202e" not in terminal.text
            terminal.press("q")
            assert terminal.ended() == 0
        done = run("top", "--once", "--json", "--admin", admin.url)
        assert done.stdout.isascii()
        assert done.stdout[:-1].isprintable()
        assert json.loads(done.stdout)["state"]["problems"] == [HOSTILE]


def test_output_to_no_terminal_is_one_snapshot(fake: Admin) -> None:
    done = run("top", "--admin", fake.url, "--sort", "KV usage")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[1] == "● all is well: 2 endpoints in 1 pool"
    assert done.stdout.index("10.0.0.2:8000") < done.stdout.index("10.0.0.1:8000")


def test_a_gateway_under_load(demo: InferGateway) -> None:
    admin = f"http://{demo.ready['admin']}"
    long = {"model": "demo-vllm", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2000, "stream": True}
    with (
        Terminal("top", "--admin", admin, columns=170, lines=50) as terminal,
        httpx.stream("POST", f"{demo.url}/v1/chat/completions", json=long) as answer,
    ):
        lines = answer.iter_lines()
        terminal.shows("all is well")
        terminal.wait(
            lambda: next(lines) is not None and "no. 1 of 2" in terminal.text and "streams 1" in terminal.text
        )
        terminal.press("q")
        assert terminal.ended() == 0
        assert_given_back(terminal)
    done = run("top", "--json", "--admin", admin)
    assert {pool["name"] for pool in json.loads(done.stdout)["state"]["pools"]} >= {"discovered/demo-vllm"}
    assert all(pool["rps"] is not None for pool in json.loads(done.stdout)["state"]["pools"])


def test_a_reader_that_leaves_is_no_error(fake: Admin) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gateway.cli", "top", "--once", "--admin", fake.url]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--admin", "http://127.0.0.1:1"), "nothing listens there"),
        (("--token-file", "/no/such/file"), "No such file"),
        (("--sort", "colour"), "is none of: pool, endpoint"),
        (("--interval", "never"), "no time between"),
    ],
)
def test_what_cannot_be_is_said_with_exit_code_2(arguments: tuple[str, ...], told: str) -> None:
    done = run("top", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
