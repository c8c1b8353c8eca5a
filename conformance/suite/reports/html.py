"""A run as one HTML page that needs nothing else: no script from elsewhere, no font, no network. (P)

Invariant: whatever a server answered is text on the page, never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import escape
from itertools import groupby

from conformance.suite.case import Level
from conformance.suite.outcome import Exchange, Kind, Result, Run

_ORDER = (Kind.FAILED, Kind.DEVIATED, Kind.NOTED, Kind.PASSED, Kind.SKIPPED)

_UNFOLDED = 10
"""Failed MUSTs up to which all of them are open when the page is."""

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d9dce1, #383c44); --soft: light-dark(#f5f6f8, #1c1f24);
  --passed: light-dark(#157f3b, #4cc27a); --failed: light-dark(#c62828, #ff7b72);
  --deviated: light-dark(#9a5b00, #e3a547);
  --noted: light-dark(#2a62b8, #7fb0f5);
  --skipped: light-dark(#6a7078, #8b929b); --back: light-dark(#fff, #14161a); --text: light-dark(#1b1e23, #e4e7eb) }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
.badge { font-family: ui-monospace, monospace; padding: .6rem .8rem; background: var(--soft); border-radius: 6px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0 }
dt { color: var(--skipped) } dd { margin: 0; overflow-wrap: anywhere }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; margin: 1rem 0 .75rem; gap: 2px }
.bar i { display: block } .passed { --c: var(--passed) } .failed { --c: var(--failed) }
.deviated { --c: var(--deviated) } .noted { --c: var(--noted) } .skipped { --c: var(--skipped) }
.bar i { background: var(--c) }
nav label { margin-right: 1rem; white-space: nowrap; color: var(--c); cursor: pointer }
details, .plain { border-top: 1px solid var(--line); padding: .45rem 0 } summary { cursor: pointer; list-style: none }
.row { display: grid; grid-template-columns: 5.5rem minmax(12rem, 22rem) 1fr 4rem; gap: .75rem; align-items: baseline }
.kind { color: var(--c); font-weight: 600 } code, pre { font: 13px/1.45 ui-monospace, monospace }
code { overflow-wrap: anywhere } .time { text-align: right; color: var(--skipped); font-variant-numeric: tabular-nums }
.why { margin: .3rem 0 .3rem 6.25rem; color: var(--c) } .more { margin: .25rem 0 .75rem 6.25rem }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: 6px; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 24rem; margin: .3rem 0 }
.level { color: var(--skipped); font-size: .85em }
body:has(#passed:not(:checked)) article.passed, body:has(#failed:not(:checked)) article.failed,
body:has(#deviated:not(:checked)) article.deviated,
body:has(#noted:not(:checked)) article.noted, body:has(#skipped:not(:checked)) article.skipped { display: none }
@media (max-width: 45rem) { .row { grid-template-columns: 5rem 1fr } .row .title, .time { grid-column: 2 }
  .why, .more { margin-left: 0 } }
"""


def write(run: Run) -> bytes:
    return "\n".join(_page(run)).encode()


def _page(run: Run) -> Iterator[str]:
    title = escape(f"{run.server.engine} {run.server.version} – conformance".replace("  ", " "))
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body>"
    yield f'<h1>{title}</h1><p class="badge">{escape(run.badge())}</p>'
    yield from _summary(run)
    unfold = len(run.wrong()) <= _UNFOLDED
    order = {name: at for at, name in enumerate(run.profiles)}
    ordered = sorted(run.results, key=lambda r: (order.get(r.profile, len(order)), r.profile))
    for profile, group in groupby(ordered, key=lambda r: r.profile):
        results = sorted(group, key=lambda r: (_ORDER.index(r.kind), r.case))
        yield f"<section><h2>{escape(profile)} <span class=level>{len(results)} cases</span></h2>"
        for result in results:
            yield from _result(result, result.held and unfold)
        yield "</section>"
    yield "</body></html>"


def _summary(run: Run) -> Iterator[str]:
    found = run.count()
    told = {
        "server": run.server.url,
        "engine": f"{run.server.engine} {run.server.version}",
        "model": run.server.model,
        "profiles": ", ".join(run.profiles),
        "only": run.selected,
        "when": datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "took": f"{run.seconds:.1f} s",
        "suite": run.suite,
        "note": run.note,
    }
    yield "<dl>" + "".join(f"<dt>{n}</dt><dd>{escape(v)}</dd>" for n, v in told.items() if v.strip()) + "</dl>"
    yield '<div class="bar" aria-hidden="true">'
    yield from (f'<i class="{kind}" style="flex:{found[kind]}"></i>' for kind in _ORDER if found[kind])
    yield "</div><nav>"
    for kind in _ORDER:
        yield f'<label class="{kind}"><input type="checkbox" id="{kind}" checked> {found[kind]} {kind}</label>'
    yield "</nav>"


def _result(result: Result, unfold: bool) -> Iterator[str]:
    level = "" if result.level is Level.MUST else f' <span class="level">{result.level}</span>'
    row = (
        f'<div class="row"><span class="kind">{result.kind}</span><code>{escape(result.case)}</code>'
        f'<span class="title">{escape(result.title)}{level}</span>'
        f'<span class="time">{_time(result.seconds)}</span></div>'
    )
    why = f'<p class="why">{escape(result.message)}</p>' if result.message else ""
    yield f'<article class="{result.kind}" id="{escape(result.case)}"><details'
    yield f"{' open' if unfold else ''}><summary>{row}{why}</summary>"
    yield from _more(result)
    yield "</details></article>"


def _more(result: Result) -> Iterable[str]:
    yield f'<div class="more"><p class="level">{escape(result.source)}</p>'
    for name, value in (("expected", result.expected), ("got", result.got)):
        if value is not None:
            yield f"<p>{name}</p><pre>{escape(value)}</pre>"
    yield from (f"<p>{escape(note)}</p>" for note in result.notes)
    for exchange in result.exchanges:
        yield from _exchange(exchange)
    yield "</div>"


def _exchange(exchange: Exchange) -> Iterable[str]:
    said = exchange.error or f"{exchange.status}"
    yield f"<p>{escape(exchange.method)} {escape(exchange.url)} → {escape(said)} after {_time(exchange.seconds)}</p>"
    yield f"<pre>{escape(exchange.command)}</pre>"
    fields = "\n".join(f"{name}: {value}" for name, value in exchange.headers)
    if fields or exchange.answer:
        yield f"<pre>{escape(fields)}\n\n{escape(exchange.answer)}</pre>"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
