"""The page over a real gateway, in a real browser: it follows what happens, and nothing that callers send acts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.dashboard.browser import Browser, Page
from tests.dashboard.conftest import KEYS, MARKUP, TURNED
from tests.process import InferGateway, serve, simulate

ALICE, HOSTILE = KEYS
TOKEN = "a-token-to-be-shown-0123456789"
TYPED = {"live": "document.getElementById('live-text').textContent", "said": "document.getElementById('said')"}


def url(gateway: InferGateway) -> str:
    return f"http://{gateway.ready['admin']}/"


def ask(gateway: InferGateway, key: str = ALICE, model: str = "chat", tokens: int = 4) -> str:
    """The id of a request whose decision is kept."""
    body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "what is a gateway"}]}
    headers = {"authorization": f"Bearer {key}", "x-debug-schedule": "1"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


@contextmanager
def load(gateway: InferGateway) -> Iterator[None]:
    """Three callers who ask again and again."""
    over = threading.Event()

    def go() -> None:
        while not over.is_set():
            ask(gateway, tokens=40)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def opened(browser: Browser, address: str, *, complains: bool = False) -> Iterator[Page]:
    """A page that is live; at the end it has complained of nothing."""
    page = browser.page(address)
    try:
        page.until(f"{TYPED['live']} === 'live' && document.querySelector('.tile')")
        yield page
        assert complains or page.complaints == []
    finally:
        page.close()


def test_it_follows_the_load(browser: Browser, house: InferGateway) -> None:
    with opened(browser, url(house)) as page:
        page.until("document.getElementById('verdict-text').textContent.includes('All 3 endpoints serve')")
        assert page.count(".pool") == 2
        assert page.count(".tile[data-state=ready]") == 3
        with load(house):
            page.until("/ [1-9]\\S* requests? a second/.test(document.getElementById('verdict-text').textContent)")
            page.until("/all [1-9]/.test(document.querySelectorAll('.plot')[1].ariaLabel)")
            page.until("[...document.querySelectorAll('.tile .load b:first-child')].some(b => b.textContent !== '0')")
            before = page.js("window.tile = document.querySelector('.tile'); document.querySelector('.plot').ariaLabel")
            page.until(f"document.querySelector('.plot').ariaLabel !== {json.dumps(before)}")
        assert page.js("window.tile.isConnected"), "tiles are changed in place"
        page.until("document.querySelectorAll('#recent .decision').length >= 3")
        assert "expected" in page.text("#recent")
        assert "alice" in page.text("#flow-list")
        assert "acme" in page.text("#flow-list")
        assert "model chat" in page.text("#route-list")
        assert page.js("document.title").startswith("✓ All 3 endpoints serve")


def test_hostile_names_do_nothing(browser: Browser, house: InferGateway) -> None:
    ids = [ask(house, HOSTILE, model) for model in (MARKUP, "chat")]
    with opened(browser, url(house)) as page:
        page.until(f"document.getElementById('recent').textContent.includes({json.dumps(ids[0])})")
        page.until("document.getElementById('flow-list').textContent.includes('<img src=x')")
        page.js("document.querySelectorAll('details, #recent details').forEach(each => each.open = true)")
        page.js(
            "document.querySelector('.tile[aria-label]').closest('.pools').querySelectorAll('.tile').item(2).click()"
        )
        page.until("document.getElementById('details').open")
        page.type("onerror")
        assert page.text("#fleet").count("<img src=x onerror") >= 1
        assert page.text("#route-list").count("<img src=x onerror") >= 1
        assert page.js("window.struck === undefined")
        assert page.js("[...document.images].map(image => image.getAttribute('src'))") == ["/static/icon.svg"]
        assert page.count("body script, #page b > b, iframe, [onerror]") == 0
        everything = page.js("document.body.textContent + [...document.querySelectorAll('*')].map(x => x.title).join()")
        assert not set(TURNED).intersection("\u202e\u2066\u200b").intersection(everything)
        assert "safe⟨202E⟩txt.exe" in everything


def test_a_decision_is_found_by_its_request(browser: Browser, house: InferGateway) -> None:
    wanted = ask(house)
    with opened(browser, url(house)) as page:
        page.js("document.getElementById('find-id').focus()")
        page.type(wanted)
        page.key("Enter", 13, "\r")
        page.until("document.querySelector('#found table')")
        assert wanted in page.text("#found")
        assert page.count("#found tbody tr") == 2
        assert page.count("#found .winner") == 1
        page.js("document.getElementById('find-id').value = ''")
        page.js("document.getElementById('find-id').focus()")
        page.type("<b>nothing")
        page.key("Enter", 13, "\r")
        page.until("document.getElementById('found').textContent.includes('No decision is kept for <b>nothing')")


def test_the_configuration_is_shown_searched_and_copied(browser: Browser, house: InferGateway) -> None:
    with opened(browser, url(house)) as page:
        page.until("document.querySelectorAll('#config-tree details').length > 5")
        assert "listeners" in page.text("#config-tree")
        page.click("#config-search")
        page.type("drainTimeout")
        page.until("document.querySelectorAll('#config-tree .hits li').length === 1")
        assert page.text("#config-tree .hits") == "settings.drainTimeout 30s"
        page.allow("clipboardReadWrite", "clipboardSanitizedWrite")
        page.click("#config-copy")
        page.until("document.getElementById('config-copy').textContent === 'Copied'")
        copied = json.loads(page.js("navigator.clipboard.readText()"))
        assert copied["settings"]["drainTimeout"] == "30s"


def test_pausing_keeps_what_is_shown(browser: Browser, house: InferGateway) -> None:
    with opened(browser, url(house)) as page:
        page.click("#pause")
        assert page.js(TYPED["live"]) == "paused"
        shown = page.text("#facts")
        late = page.js(
            "new Promise(done => { const source = new EventSource('/api/live'); let left = 3;"
            "source.addEventListener('state', () => --left || (source.close(), done(true))); })"
        )
        assert late
        assert page.text("#facts") == shown
        page.click("#pause")
        page.until(f"document.getElementById('facts').innerText !== {json.dumps(shown)}")


def test_an_endpoint_is_drained_by_keyboard_and_click(browser: Browser, house: InferGateway) -> None:
    def endpoints() -> dict[str, str]:
        return {each["endpoint"]: each["state"] for each in httpx.get(f"{url(house)}api/endpoints").json()}

    with opened(browser, url(house)) as page:
        page.js("document.querySelector('.tile').focus()")
        page.key("Enter", 13, "\r")
        page.until("document.getElementById('details').open")
        page.key("Escape", 27)
        page.until("!document.getElementById('details').open")
        assert page.js("document.activeElement.className") == "tile"
        page.click(".tile")
        name = page.text("#details-title")
        page.click(".drain button")
        page.until("document.querySelectorAll('.drain button').length === 2")
        assert "until it is to be used again" in page.text(".drain")
        assert endpoints()[name] == "ready"
        page.click(".drain .danger")
        page.until("document.querySelector('.tile[data-state=draining]')")
        assert endpoints()[name] == "draining"
        page.until("document.querySelector('.drain').textContent.includes('Use it again')")
        page.click(".drain button")
        page.until("!document.querySelector('.tile[data-state=draining]')")
        assert endpoints()[name] != "draining"
        page.until("document.getElementById('fleet-note').textContent.startsWith('3 endpoint')")


def test_beyond_loopback_one_logs_in(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    settings = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration"}
    listeners = {"admin": {"address": "0.0.0.0:0", "tokenFile": str(tmp_path / "token")}}
    (tmp_path / "gateway.json").write_text(
        json.dumps({**settings, "auth": {"required": False}, "listeners": listeners})
    )
    with (
        simulate("vllm", "m") as engine,
        serve(
            "-c", str(tmp_path / "gateway.json"), "--backend", f"vllm={engine.url}", "--admin", "0.0.0.0:0"
        ) as gateway,
    ):
        port = gateway.ready["admin"].rpartition(":")[2]
        page = browser.page(f"http://127.0.0.1:{port}/")
        page.until("document.getElementById('token') !== null")
        page.click("#token")
        page.type("not the token")
        page.key("Enter", 13, "\r")
        page.until(f"{TYPED['said']}.textContent === 'That is not the token.'")
        page.type(TOKEN)  # what was wrong is selected
        page.key("Enter", 13, "\r")
        page.until("document.querySelector('.tile[data-state=ready]')")
        page.until("!document.getElementById('logout').hidden")
        page.click("#logout")
        page.until("document.getElementById('token') !== null")
        page.close()


def test_a_gateway_that_went_comes_back(browser: Browser, tmp_path: Path) -> None:
    with simulate("vllm", "m") as engine:
        first = serve("--backend", f"vllm={engine.url}")
        with first as gateway:
            address = gateway.ready["admin"]
            page = browser.page(f"http://{address}/")
            page.until("document.querySelector('.tile[data-state=ready]')")
            page.js("window.unchanged = true")
        page.until(f"{TYPED['live']}.startsWith('disconnected since')")
        assert page.js("document.documentElement.classList.contains('lost')")
        assert page.count(".tile") == 1, "what was known last stays"
        ports = ("--http", "127.0.0.1:0", "--grpc", "off", "--admin", address)
        with InferGateway("serve", *ports, "--backend", f"vllm={engine.url}"):
            page.until(f"{TYPED['live']} === 'live'")
            assert page.js("window.unchanged && !document.documentElement.classList.contains('lost')")
            page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_themes(browser: Browser, house: InferGateway, dark: bool) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, url(house)) as page:
        page.scheme(dark=dark)
        as_system = page.js(ground)
        page.js("localStorage.setItem('theme', 'system')")
        for _ in range(2 if dark else 1):
            page.click("#theme")
        chosen = "dark" if dark else "light"
        page.until(f"document.documentElement.dataset.theme === '{chosen}'")
        assert page.js(ground) == as_system
        page.scheme(dark=not dark)
        assert page.js(ground) == as_system, "what was chosen counts, whatever the system says"
        page.ask("Page.reload")
        page.until(f"document.documentElement.dataset.theme === '{chosen}' && document.querySelector('.tile')")
        page.js("localStorage.removeItem('theme')")
