"""The page over feeds that are made up: large, in trouble, empty, nonsense; and what its files may not hold."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hatchling.builders.wheel import WheelBuilder

from gateway.live_verdict import TROUBLE, Ended, Seen, judge
from tests.dashboard.browser import Browser, Page
from tests.dashboard.made_up import STATES, STATIC, State, decision, endpoint, served, state
from tests.process import ROOT

FORBIDDEN = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment"
    r"|setHTMLUnsafe|srcdoc|javascript:"
)
STRIKE = '<img src=x onerror="window.struck=1">\u202e\x00\x1b[31m\ud800' + "A" * 5000
"""Markup, a change of direction, controls, half a character, and more of it than fits anywhere."""
NONSENSE = (
    None,
    True,
    -1,
    1e308,
    "12",
    STRIKE,
    [],
    [None],
    {},
    {"__proto__": {"struck": 1}},
    [[1, [2]]],
    "constructor",
)

# Text on its ground: every element that has text of its own, against what lies behind it, WCAG 2.2 §1.4.3.
CONTRAST = """(() => {
  const rgb = color => {
    const pen = document.createElement('canvas').getContext('2d', {colorSpace: 'srgb'});
    pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].map((part, at) => part / 255);
  };
  const over = (top, under) => top.slice(0, 3).map((part, at) => part * top[3] + under[at] * (1 - top[3]));
  const light = color => { const [r, g, b] = color.map(p => p <= 0.04045 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = element => {
    const layers = [];
    for (let each = element; each; each = each.parentElement)
      layers.unshift(rgb(getComputedStyle(each).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [1, 1, 1]);
  };
  const poor = [], seen = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('.hidden-label, .skip')) continue;
    const style = getComputedStyle(element), behind = ground(element);
    const key = [style.color, behind, element.className].join();
    if (seen.has(key)) continue;
    seen.add(key);
    const [a, b] = [light(over(rgb(style.color), behind)), light(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}: ${ratio}`);
  }
  return [seen.size, poor];
})()"""


def live(browser: Browser, url: str, **more: int | bool) -> Page:
    page = browser.page(url, **more)
    page.until("document.getElementById('live-text').textContent === 'live'")
    page.until("document.getElementById('about').textContent !== ''")
    return page


def troubled() -> State:
    """Each state that an endpoint can be in, a queue, a refused configuration, errors, a split route, callers."""
    ends = [endpoint(at, 0, state=name, why="failing" if name == "open" else "") for at, name in enumerate(STATES)]
    flow = {"pool": "pool-0", "tenant": "acme", "caller": "alice", "tier": "gold", "queued": 4, "inflight": 2}
    flow |= {"served": 1e6, "share": 0.7, "fair": 0.5, "wait": 2.5}
    targets = [
        {"pool": "pool-0", "model": None, "weight": 0.9, "share": 0.93, "rps": 3.0, "errors": 0.1},
        {"pool": "pool-1", "model": "canary", "weight": 0.1, "share": None, "rps": None, "errors": None},
    ]
    made = state(ends, flows=[flow], flows_left_out=2, routes=[{"name": "r", "match": "model r", "targets": targets}])
    more = {"totals": {**made["totals"], "errors": 9.0}, "problems": ["a.yaml:1: wrong"]}
    made |= more | {"decisions": [decision(at) for at in range(20)]}
    out = [each for each in ends if each["state"] in TROUBLE]
    verdict = judge(Seen(made, made["totals"], made["pools"], out, made["flows"], seconds=Ended(345, 90)))
    return {**made, "verdict": msgspec.to_builtins(verdict)}


def test_what_is_wrong_stands_first(browser: Browser) -> None:
    with served(troubled) as url:
        page = live(browser, url)
        assert page.js("document.getElementById('verdict').dataset.level") == "bad"
        assert "26 % of requests fail" in page.text("#verdict")
        said = page.text("#problems")
        for part in (
            "is hung: no answer to anything",
            "is down",
            "is set aside: several failures in a row",
            "was refused: a.yaml:1",
        ):
            assert part in said, said
        assert page.js("[...document.querySelectorAll('.tile')].map(tile => tile.dataset.state).sort()") == sorted(
            STATES
        )
        letters = page.js("[...document.querySelectorAll('.tile .badge')].map(badge => badge.textContent)")
        assert len(set(letters)) == len(STATES), "states differ by more than colour"
        assert "70 % of 50 % fair" in page.text("#flow-list")
        assert "4 waiting, up to 2.5 s" in page.text("#flow-list")
        assert "93 % of 90 %" in page.text("#route-list")
        assert page.js("document.querySelector('.routes .share').ariaLabel").endswith("93 %, should be 90 %")
        why = page.text("#recent .decision")
        assert "holds 1,024 of 1,300 prompt tokens; 3 in flight" in why
        assert "Next best: 10.0.0.3:8000" in why
        page.click(".chip:last-child")
        page.until("[...document.querySelectorAll('.tile')].filter(tile => tile.checkVisibility()).length === 1")
        page.click("#filter")
        page.type("no such endpoint")
        page.until("document.getElementById('pools').textContent.includes('No endpoint is like that')")
        assert page.complaints == []
        page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser: Browser, dark: bool) -> None:
    with served(troubled) as url:
        page = live(browser, url, dark=dark)
        page.until("document.querySelector('#config-note').textContent !== ''")
        page.click("#as-table")
        page.click(".tile[data-state=open]")
        page.click(".drain button")
        page.js("document.querySelector('#recent details').open = true")
        seen, poor = page.js(CONTRAST)
        assert poor == []
        assert seen > 40
        page.go(f"{url}login")
        assert page.js(CONTRAST)[1] == []
        page.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_nothing_is_wider_than_the_screen(browser: Browser, width: int) -> None:
    with served(troubled) as url:
        page = live(browser, url, width=width, height=844)
        assert page.js("document.documentElement.scrollWidth") <= width
        page.js("document.querySelector('#recent details').open = true")
        page.click(".tile")
        assert page.js("document.documentElement.scrollWidth") <= width
        assert page.js("document.getElementById('details').scrollWidth") <= width
        page.close()


def nonsense() -> list[State]:
    """States in which one thing after the other is something else than it should be."""
    good = troubled()
    made: list[State] = [{**good, name: value} for name in good for value in NONSENSE if name != "at"]
    for name in ("endpoints", "pools", "flows", "routes", "decisions", "verdict"):
        row = good[name][0]
        made += [{**good, name: [{**row, member: value} for value in NONSENSE]} for member in row]
    made += [{**good, "routes": [{"name": "r", "targets": [{"pool": value}]}]} for value in NONSENSE]
    return made


def test_any_feed_is_survived(browser: Browser) -> None:
    states = nonsense()
    left = iter(states)
    good = troubled()

    def following() -> State:
        return next(left, {**good, "generation": 7, "endpoints": [endpoint(1, 0, id="the-last-one:1")], "pools": []})

    with served(following, every=0.02) as url:
        page = browser.page(url)
        page.until("document.querySelector('.tile')?.textContent.includes('the-last-one:1')", 25)
        assert page.complaints == []
        assert page.js("window.struck === undefined && ({}).struck === undefined")
        assert page.js("document.images.length") == 1
        assert page.js("/[\\u202e\\0\\x1b]/.test(document.body.textContent)") is False
        page.close()


def test_without_endpoints_it_teaches(browser: Browser) -> None:
    config = {"settings": {"fairness": {"enabled": False}}}
    with served(lambda: state([]), config=config) as url:
        page = live(browser, url)
        page.until("document.getElementById('flow-list').innerText.includes('fairness: {enabled: true}')")
        assert page.text("#verdict-text") == "No endpoint yet"
        assert "infer-gateway serve --backend" in page.text("#pools")
        assert "kind: ModelRoute" in page.text("#route-list")
        assert "No request was placed yet" in page.text("#decisions")
        page.close()


def test_256_endpoints_stay_smooth(browser: Browser) -> None:
    """What it takes is told, not judged: run with -s."""

    def many() -> State:
        now = made["at"] = made.get("at", 0.0) + 1.0
        return state([endpoint(at, now) for at in range(256)], decisions=[decision(int(now) + at) for at in range(20)])

    made: State = {}
    with served(many) as url:
        page = live(browser, url)
        assert page.count(".tile") == 256
        page.js("window.tiles = [...document.querySelectorAll('.tile')]")
        page.ask("Performance.enable")
        spent = _spent(page)
        before = page.text(".tiles")
        measured = page.js(
            """new Promise(done => {
              const frames = [], long = [], started = performance.now();
              const seen = new PerformanceObserver(all => long.push(...all.getEntries().map(each => each.duration)));
              seen.observe({type: 'longtask'});
              let last = started;
              const frame = now => {
                frames.push(now - last); last = now;
                now - started < 3000 ? requestAnimationFrame(frame) : done([frames.length, Math.max(...frames), long]);
              };
              requestAnimationFrame(frame);
            })"""
        )
        share = {name: round((after - spent[name]) / 3, 3) for name, after in _spent(page).items()}
        print(
            f"\n256 endpoints: {measured[0]} frames in 3 s, the longest {measured[1]:.0f} ms; long tasks {measured[2]};"
        )
        print(f"of a core: {share}")
        assert page.text(".tiles") != before
        assert page.js("window.tiles.every(tile => tile.isConnected)"), "tiles are changed in place"
        assert page.complaints == []
        page.close()


def _spent(page: Page) -> dict[str, float]:
    """Seconds since the page began, by what they were for."""
    metrics = page.ask("Performance.getMetrics")["metrics"]
    wanted = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    return {each["name"]: each["value"] for each in metrics if each["name"] in wanted}


def files() -> list[Path]:
    return sorted(STATIC.iterdir())


def test_no_file_makes_markup_of_text_or_asks_elsewhere() -> None:
    assert len(files()) > 10
    for file in files():
        text = file.read_text()
        assert not re.search(FORBIDDEN, text), file
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|127\.0\.0\.1)", text), file
        if file.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=\"/static/)", text), file
            for name in re.findall(r"/static/([\w.]+)", text):
                assert (STATIC / name).exists(), name
        for name in re.findall(r"from \"\./([\w.]+)\"", text):
            assert (STATIC / name).exists(), name


def test_a_wheel_has_all_of_it() -> None:
    packed = {Path(file.path) for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {file.resolve() for file in files()} <= {path.resolve() for path in packed}
