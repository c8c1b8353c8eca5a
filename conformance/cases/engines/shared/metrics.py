"""What a gateway that routes by load has to be able to believe of a metrics page. (T)

Invariant: a case looks at the server through its page and its answers only; where the server is too fast to be seen at
work it is skipped.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence

import trio

from conformance.cases.engines.shared.held import Held, context_length, held
from conformance.cases.engines.shared.page import Page, fallen
from conformance.cases.engines.shared.signals import ACCEPT, Signals, patience, quiet, read, until
from conformance.cases.engines.shared.templates import Templates
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import Target

METRICS = Templates("metrics")
SEEN_S = 5.0
_SETTLED_S = 8.0
_COUNTED_S = 3.0
_PAGE_S = 1.0
"""How long a gateway that asks several times a second waits for the page."""


# --- the page ---------------------------------------------------------------------------------------------------------


@METRICS.case("page", "The metrics page is Prometheus text that can be read")
async def page(target: Target, signals: Signals) -> None:
    await target.chatted(max_tokens=2)
    found = await read(target, signals)
    answer = await target.ask(signals.path, headers=ACCEPT)
    check.equal(answer.media_type, "text/plain", "the content type of the metrics page")
    check.true(found.text.endswith("\n"), "the metrics page does not end with a newline", r"…\n", found.text[-80:])
    own = [sample.name for sample in found.samples if sample.name.startswith(signals.mark)]
    check.true(own, f"no name on the metrics page begins with {signals.mark}", None, found.text)


@METRICS.case("names", "Every number that a gateway reads is on the metrics page")
async def names(target: Target, signals: Signals) -> None:
    wanted = [*signals.gauges, *signals.counters, *([f"{n}_count" for n in names] for names in signals.histograms)]
    await _two_answers(target)
    found, _ = await until(target, signals, lambda page: not _missing(page, wanted), _COUNTED_S)
    check.equal(_missing(found, wanted), [], "what the metrics page lacks after two answers")


def _missing(found: Page, wanted: Sequence[Sequence[str]]) -> list[str]:
    return [" or ".join(names) for names in wanted if not found.series(*names)]


@METRICS.case("types", "Gauges, counters and histograms are declared as such", level=Level.SHOULD)
async def types(target: Target, signals: Signals) -> None:
    await target.chatted(max_tokens=4)
    found = await read(target, signals)
    for kind, families in (
        ("gauge", signals.gauges), ("counter", signals.counters), ("histogram", signals.histograms)
    ):  # fmt: skip
        for name in (name for names in families for name in names if name in found.types):
            check.equal(found.types[name], kind, f"the declared type of {name}")


@METRICS.case("finite", "Gauges and counters that a gateway reads are finite and not negative")
async def finite(target: Target, signals: Signals) -> None:
    await target.chatted(max_tokens=4)
    found = await read(target, signals)
    for sample in (s for names in (*signals.gauges, *signals.counters) for s in found.series(*names)):
        check.true(0 <= sample.value < math.inf, f"{sample.name} is no count", "a finite number from 0", sample.value)


@METRICS.case("quick", "The page comes within a second while the engine works", level=Level.INFO, alone=True)
async def quick(target: Target, signals: Signals) -> None:
    await quiet(target, signals)
    async with held(target, 4):
        for _ in range(3):
            began = trio.current_time()
            with trio.move_on_after(patience(target, _PAGE_S)) as scope:
                await read(target, signals)
            check.true(not scope.cancelled_caught, "the metrics page is late", f"within {_PAGE_S:g} s")
            target.note(f"the page took {1000 * (trio.current_time() - began):.0f} ms")


@METRICS.case("open", "The metrics page asks for no key", level=Level.SHOULD, uses=("open",))
async def no_key(target: Target, signals: Signals) -> None:
    if not target.setup.key:
        target.skip("needs --api-key: a server that demands one")
    await read(target, signals)
    answer = await target.ask(signals.path, headers=ACCEPT, key="")
    answer.expect(200)


# --- its meaning ------------------------------------------------------------------------------------------------------


async def seen(
    target: Target, signals: Signals, requests: Held, reached: Callable[[Page], object], expected: str
) -> Page:
    """The page once it is as ``reached`` wants while the requests are open. Skips where they are over before."""
    found, there = await until(target, signals, reached, SEEN_S, lambda: requests.over or not requests.taken)
    if there:
        return found
    if not requests.taken:
        target.skip("the server's queue is full before it is busy")
    if requests.over:
        target.skip(f"too fast to be observed: {requests.tokens} tokens were made before the page told of them")
    running, waiting = found.total(signals.running), found.total(signals.waiting)
    raise check.Failure("the metrics page does not show the load", expected, f"running {running}, waiting {waiting}")


async def settled(target: Target, signals: Signals, within: float = _SETTLED_S) -> Page:
    """The page once nothing runs or waits any more, which it has to within seconds."""
    found, there = await until(target, signals, lambda page: not signals.held(page), within)
    count = signals.held(found)
    seconds = patience(target, within)
    check.true(there, f"requests still run or wait {seconds:g} s after their clients have gone", 0, count)
    return found


@METRICS.case("running", "The running requests are counted, up and down again", alone=True)
async def running(target: Target, signals: Signals) -> None:
    await quiet(target, signals)
    async with held(target, 3) as requests:
        await seen(
            target, signals, requests,
            lambda page: (page.total(signals.running) or 0) > 0 and signals.held(page) >= requests.taken,
            f"running more than 0, with those that wait {requests.taken}",
        )  # fmt: skip
    await settled(target, signals)


@METRICS.case("waiting", "Whatever does not run yet is counted as waiting", alone=True, uses=("waiting",))
async def waiting(target: Target, signals: Signals) -> None:
    await quiet(target, signals)
    async with held(target, signals.crowd or 1 + await _slots(target)) as requests:
        found = await seen(
            target, signals, requests, lambda page: signals.held(page) >= requests.taken,
            f"running and waiting together {requests.taken}",
        )  # fmt: skip
        if not found.total(signals.waiting):
            target.note(f"{requests.taken} requests ran at once: none had to wait")
    await settled(target, signals)


async def _slots(target: Target) -> int:
    answer = await target.ask("/props")
    return check.kind(check.member(answer.expect(200).json, "total_slots"), int, "total_slots")


@METRICS.case("kv-usage", "KV usage is a fraction that rises under load and falls again", alone=True, uses=("usage",))
async def kv_usage(target: Target, signals: Signals) -> None:
    def used(page: Page) -> float:
        usage = signals.kv_usage(page)
        return usage if usage is not None else 0.0 if signals.capacity else check.fail("KV usage is not told")

    await _two_answers(target)
    idle = used(await quiet(target, signals))
    _fraction(idle)
    async with held(target, 4, await long_text(target)) as requests:
        busy, rose = await until(target, signals, lambda page: used(page) > idle, SEEN_S, lambda: requests.over)
        _fraction(used(busy))
        if not rose and requests.over:
            target.skip(f"too fast to be observed: {requests.tokens} tokens were made before KV usage moved")
        check.true(rose, "KV usage does not rise under load", f"more than {idle:g}", used(busy))
    await settled(target, signals)
    after, fell = await until(target, signals, lambda page: used(page) < used(busy), _COUNTED_S)
    check.true(fell, "KV usage does not fall once the load is gone", f"less than {used(busy):g}", used(after))


def _fraction(usage: float) -> None:
    check.true(0 <= usage <= 1, "KV usage is no fraction", "a number from 0 to 1", usage)


@METRICS.case("tokens", "Token counters grow by what usage tells", alone=True, uses=("prompt", "generated"))
async def tokens(target: Target, signals: Signals) -> None:
    before = await quiet(target, signals)

    def grown(page: Page) -> tuple[float, float]:
        made = (page.total(signals.generated) or 0) - (before.total(signals.generated) or 0)
        return signals.prompt_tokens(page) - signals.prompt_tokens(before), made

    answer = await target.chatted(f"{secrets.token_hex(4)}: say hello.", max_tokens=12)
    told = (check.member(answer, "usage.prompt_tokens"), check.member(answer, "usage.completion_tokens"))
    after, _ = await until(
        target, signals, lambda page: all(g >= t for g, t in zip(grown(page), told, strict=True)), _COUNTED_S
    )
    for what, growth, count in zip(("prompt", "generated"), grown(after), told, strict=True):
        check.true(growth >= count, f"the counter of {what} tokens does not grow by what usage tells", count, growth)
        check.true(growth <= 2 * count + 8, f"the counter of {what} tokens counts more than usage tells", count, growth)


@METRICS.case("finished", "Answered requests are counted", alone=True, uses=("finished",))
async def finished(target: Target, signals: Signals) -> None:
    await _two_answers(target)  # some engines begin to count with the first
    before = await quiet(target, signals)
    await _two_answers(target)
    wanted = (before.total(signals.finished) or 0) + 2
    after, there = await until(target, signals, lambda page: (page.total(signals.finished) or 0) >= wanted, _COUNTED_S)
    check.true(there, "the counter of answered requests does not grow by two", wanted, after.total(signals.finished))


@METRICS.case("prefix-hits", "A prompt that comes again is counted as found in the cache", alone=True, uses=("hits",))
async def prefix_hits(target: Target, signals: Signals) -> None:
    before = await quiet(target, signals)
    if before.label("vllm:cache_config_info", "enable_prefix_caching") == "False":
        target.skip("prefix caching is switched off")
    prompt = f"{secrets.token_hex(4)} {await long_text(target)}"
    await target.chatted(prompt, max_tokens=2)
    first = await settled(target, signals)
    await target.chatted(prompt, max_tokens=2)
    known = first.total(signals.hits) or 0
    after, there = await until(target, signals, lambda page: (page.total(signals.hits) or 0) > known, _COUNTED_S)
    check.true(there, "a prompt sent twice does not raise the hits of the prefix cache", f"> {known:g}", known)
    if signals.queried:
        queried = (after.total(signals.queried) or 0) - (before.total(signals.queried) or 0)
        hits = (after.total(signals.hits) or 0) - (before.total(signals.hits) or 0)
        check.at_least(queried, hits, "the tokens looked up, beside those found")


@METRICS.case("counters", "Counters never fall, not even when clients leave", alone=True)
async def counters(target: Target, signals: Signals) -> None:
    await _two_answers(target)
    before = await quiet(target, signals)
    async with held(target, 2) as requests:
        await seen(target, signals, requests, signals.held, "a request that runs or waits")
        during = await read(target, signals)
    await settled(target, signals)
    await target.chatted(max_tokens=4)
    after = await read(target, signals)
    for earlier, later in ((before, during), (during, after)):
        names = [name for name, kind in earlier.types.items() if name.startswith(signals.mark) and kind == "counter"]
        for name, kind in earlier.types.items():
            if kind == "histogram" and name.startswith(signals.mark):
                names += [f"{name}_count", f"{name}_sum", f"{name}_bucket"]
        check.equal(fallen(earlier, later, names), [], "the list of counters that fell")


@METRICS.case("latencies", "An answer's latencies enter the histograms", alone=True, uses=("histograms",))
async def latencies(target: Target, signals: Signals) -> None:
    before = await quiet(target, signals)
    await target.streamed(max_tokens=8, ignore_eos=True)
    for family in signals.histograms:
        count, total = [f"{name}_count" for name in family], [f"{name}_sum" for name in family]
        known = before.total(count) or 0
        after, there = await until(target, signals, lambda page: (page.total(count) or 0) > known, _COUNTED_S)  # noqa: B023
        check.true(there, f"a streamed answer does not enter the histogram {family[0]}", f"> {known:g}", known)
        spent = (after.total(total) or 0) - (before.total(total) or 0)
        check.true(0 <= spent < 60, f"the sum of {family[0]} grows by no latency", "0 to 60 seconds", spent)
        endless = [f"{name}_bucket" for name in family]
        check.equal(after.total(endless, le="+Inf"), after.total(count), f"the endless bucket of {family[0]}")


async def _two_answers(target: Target) -> None:
    await target.streamed(max_tokens=4)
    await target.chatted(max_tokens=4)


async def long_text(target: Target) -> str:
    """A prompt of some hundred tokens, a third of the context at most: a word is up to six of them."""
    context = await context_length(target)
    words = 400 if context is None else max(16, min(400, context // 20))
    return " ".join(f"word{number}" for number in range(words))
