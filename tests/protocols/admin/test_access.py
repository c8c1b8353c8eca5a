"""Who may ask the admin plane what: every rule by itself, without a server."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.admin.access import SESSION_S, Asked, Rules, hostname, is_session, is_token, judge, same_origin, session
from protocols.admin.token_file import TokenFile

HERE = Rules("127.0.0.1", "127.0.0.1")
OUTSIDE = Rules("0.0.0.0", "0.0.0.0", token_wanted=True)
TOKEN = "a token that nobody guesses"
NOW = 1_800_000_000.0
GET = Asked("GET", "/api/config", host="localhost:9090")
POST = Asked("POST", "/api/endpoints/x/drain", host="localhost:9090")


def status(asked: Asked, rules: Rules = HERE, token: str = "", now: float = NOW) -> int:
    """What it is answered; 200 if nothing is said against it."""
    refusal = judge(asked, rules, token, now)
    return 200 if refusal is None else refusal.status


def but(asked: Asked, **changes: str) -> Asked:
    return msgspec.structs.replace(asked, **changes)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:9090", "127.9.9.9", "[::1]:9090", "[::1]", "localhost.:9090"]
)
def test_whoever_connects_on_loopback_may_ask(host: str) -> None:
    assert status(but(GET, host=host)) == 200
    assert status(but(GET, host=host), Rules("::1", "::1")) == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:9090",
     "localhost@evil.example", "evil.example#localhost", "[::1", "localhost:x", "[::2]:9090", "localhost/..",
     "0.0.0.0", "localhost#", "localhost?x", "[::1]evil", "localhost..", "localhost:99999", "2130706433", "127.1",
     "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_names_that_others_may_point_here_are_not_answered(host: str) -> None:
    """DNS rebinding: the browser takes us for the other site."""
    assert status(but(GET, host=host)) == 421
    assert status(but(GET, host=host, path="/healthz")) == 200


def test_a_name_that_was_given_to_it_is_its_own() -> None:
    assert status(but(GET, host="Desk.lan:9090"), Rules("127.0.1.1", "desk.lan")) == 200
    assert status(but(GET, host="other.lan:9090"), Rules("127.0.1.1", "desk.lan")) == 421


def test_beyond_loopback_there_is_nothing_without_a_token() -> None:
    bare = Rules("0.0.0.0", "0.0.0.0")
    assert [status(but(GET, path=path), bare) for path in ("/", "/metrics", "/login", "/api/live", "/static/a.js")] == [
        403
    ] * 5
    assert [status(but(GET, path=path), bare) for path in ("/healthz", "/readyz")] == [200, 200]
    refusal = judge(GET, bare, "", NOW)
    assert refusal is not None
    assert "listeners.admin.tokenFile" in refusal.message
    assert status(but(GET, path="/metrics"), msgspec.structs.replace(bare, anonymous_metrics=True)) == 200


@pytest.mark.parametrize("rules", [OUTSIDE, msgspec.structs.replace(HERE, token_wanted=True)])
def test_the_token_opens_everything(rules: Rules) -> None:
    assert status(but(GET, authorization=f"Bearer {TOKEN}"), rules, TOKEN) == 200
    assert status(but(POST, authorization=f"bearer  {TOKEN} "), rules, TOKEN) == 200
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \udcff",
    ):
        assert status(but(GET, authorization=wrong), rules, TOKEN) == 401
    assert status(but(GET, path="/metrics"), rules, TOKEN) == 401
    assert status(but(GET, path="/login"), rules, TOKEN) == 200
    assert status(but(GET, path="/loginx"), rules, TOKEN) == 401


def test_a_token_that_cannot_be_read_lets_nobody_in() -> None:
    for authorization in ("", "Bearer ", "Bearer x"):
        assert status(but(GET, authorization=authorization), OUTSIDE, "") == 403
    assert status(but(GET, session=session("", NOW)), OUTSIDE, "") == 403
    assert not is_token("", "")


def test_a_session_lasts_its_time_and_its_token() -> None:
    asked = but(GET, session=session(TOKEN, NOW))
    assert status(asked, OUTSIDE, TOKEN) == 200
    assert status(asked, OUTSIDE, TOKEN, NOW + SESSION_S - 1) == 200
    assert status(asked, OUTSIDE, TOKEN, NOW + SESSION_S + 1) == 401
    assert status(asked, OUTSIDE, TOKEN + "2") == 401
    assert status(asked, OUTSIDE, TOKEN, NOW - 60) == 401, "it would last longer than any that is given out"


@given(st.text() | st.from_regex(r"[0-9]{1,20}\.[0-9a-f]{0,64}"))
def test_no_session_can_be_made_up(value: str) -> None:
    assert not is_session(value, TOKEN, NOW)


def test_a_sessions_end_cannot_be_moved() -> None:
    until, _, signature = session(TOKEN, NOW).partition(".")
    assert is_session(f"{until}.{signature}", TOKEN, NOW)
    assert not is_session(f"{int(until) - 1}.{signature}", TOKEN, NOW)
    assert not is_session(f"0{until}.{signature}", TOKEN, NOW)


def test_changes_come_from_the_same_origin() -> None:
    assert status(POST) == 200, "no browser, no origin"
    assert status(but(POST, origin="http://localhost:9090")) == 200
    assert status(but(POST, origin="https://LOCALHOST:9090")) == 200, "a proxy may speak TLS"
    for origin in ("null", "https://evil.example", "http://localhost:3000", "http://localhost", "http://[", "file://"):
        assert status(but(POST, origin=origin)) == 403
    assert status(but(POST, origin="http://localhost:9090", fetch_site="same-origin")) == 200
    for site in ("cross-site", "same-site", "none "):
        assert status(but(POST, fetch_site=site)) == 403
    assert status(but(POST, host="")) == 421


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://admin.example", "admin.example", True),
        ("https://admin.example", "admin.example:443", True),
        ("http://admin.example:80", "admin.example", True),
        ("http://[::1]:9090", "[::1]:9090", True),
        ("https://admin.example", "admin.example:80", False),
        ("https://admin.example:8443", "admin.example", False),
        ("https://admin.example/", "admin.example", False),
        ("https://u@admin.example", "admin.example", False),
        ("ftp://admin.example", "admin.example", False),
    ],
)
def test_origins_are_compared_behind_proxies_as_well(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


def test_a_browsers_own_word_goes_before_a_proxys_name_for_us() -> None:
    asked = but(POST, host="upstream:9090", origin="https://admin.example", session=session(TOKEN, NOW))
    assert status(asked, OUTSIDE, TOKEN) == 403
    assert status(but(asked, fetch_site="same-origin"), OUTSIDE, TOKEN) == 200
    assert status(but(asked, fetch_site="same-site"), OUTSIDE, TOKEN) == 403


def test_a_change_by_a_cookie_says_where_it_comes_from() -> None:
    asked = but(POST, session=session(TOKEN, NOW))
    assert status(asked, OUTSIDE, TOKEN) == 403
    assert status(but(asked, origin="http://localhost:9090"), OUTSIDE, TOKEN) == 200
    assert status(but(asked, origin="http://evil.example"), OUTSIDE, TOKEN) == 403
    assert status(but(asked, authorization=f"Bearer {TOKEN}"), OUTSIDE, TOKEN) == 200


def test_pages_of_other_sites_read_nothing_but_may_lead_here() -> None:
    for site in ("cross-site", "same-site"):
        assert status(but(GET, fetch_site=site, fetch_mode="no-cors", fetch_dest="image")) == 403
        assert status(but(GET, fetch_site=site, fetch_mode="navigate", fetch_dest="iframe")) == 403
        assert status(but(GET, path="/", fetch_site=site, fetch_mode="navigate", fetch_dest="document")) == 200
    assert status(but(GET, fetch_site="none", fetch_mode="navigate", fetch_dest="document")) == 200


@given(st.text(), st.text())
def test_no_field_is_too_strange_to_be_judged(text: str, other: str) -> None:
    assert hostname(text) == hostname(text)
    assert not same_origin(text, other) or text.startswith(("http", "HTTP"))
    strange = Asked("POST", text, text, other, text, other, text, other, text)
    for rules in (HERE, OUTSIDE):
        judge(strange, rules, TOKEN, NOW)


def test_the_token_is_read_again_when_its_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    held = TokenFile(str(file))
    assert held.token() == ""
    assert "cannot read" in caplog.text
    file.write_text(f"\n  {TOKEN}\t\n")
    assert held.token() == TOKEN
    (tmp_path / "next").write_text("another one, just as long")
    (tmp_path / "next").rename(file)
    assert held.token() == "another one, just as long"
    caplog.clear()
    for bad, why in (
        (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "no text"), (b"x" * 5000, "more than"),
        (b"two\nlines", "one line"), ("pässwörter".encode(), "ASCII"),
    ):  # fmt: skip
        file.write_bytes(bad)
        assert (held.token(), held.token()) == ("", "")
        assert caplog.text.count(why) == 1
        caplog.clear()
    file.write_text("short")
    caplog.set_level(logging.WARNING)
    assert held.token() == "short"
    assert "can be guessed" in caplog.text
    held.path = ""
    assert held.token() == ""
    assert TOKEN not in caplog.text


def test_a_pipe_in_place_of_the_token_keeps_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        assert TokenFile(str(path)).token() == ""
    assert caplog.text.count("nobody is let in") == 3
