"""A run as JUnit XML, as build servers read it. (P)

A failed MUST is a failure. Failed SHOULDs, INFOs and deviations are skipped cases with a message, so that a build is
red exactly when the exit code is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from xml.etree import ElementTree as tree

from conformance.suite.outcome import Kind, Result, Run

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, however escaped."""


def write(run: Run) -> bytes:
    root = tree.Element("testsuites", name="infer-gateway conformance", time=f"{run.seconds:.3f}")
    results = sorted(run.results, key=lambda r: run.profiles.index(r.profile) if r.profile in run.profiles else 99)
    for profile, group in groupby(results, key=lambda r: r.profile):
        _suite(root, run, profile, list(group))
    tree.indent(root)
    return b"<?xml version='1.0' encoding='utf-8'?>\n" + tree.tostring(root, encoding="unicode").encode() + b"\n"


def _suite(root: tree.Element, run: Run, profile: str, results: list[Result]) -> None:
    suite = tree.SubElement(
        root,
        "testsuite",
        name=profile,
        tests=str(len(results)),
        failures=str(sum(r.held for r in results)),
        errors="0",
        skipped=str(sum(_passed_over(r) for r in results)),
        time=f"{sum(r.seconds for r in results):.3f}",
    )
    properties = tree.SubElement(suite, "properties")
    for name in ("engine", "version", "model", "url"):
        tree.SubElement(properties, "property", name=name, value=_clean(getattr(run.server, name)))
    for result in results:
        _case(suite, result)


def _case(suite: tree.Element, result: Result) -> None:
    name = f"{result.case}: {result.title}"
    case = tree.SubElement(suite, "testcase", classname=result.profile, name=name, time=f"{result.seconds:.3f}")
    if result.held:
        failure = tree.SubElement(case, "failure", type=str(result.level), message=_clean(result.message))
        failure.text = _clean("\n".join(_details(result)))
    elif _passed_over(result):
        told = result.message if result.kind is Kind.SKIPPED else f"{result.kind} ({result.level}): {result.message}"
        tree.SubElement(case, "skipped", message=_clean(told))
    if result.notes:
        tree.SubElement(case, "system-out").text = _clean("\n".join(result.notes))


def _passed_over(result: Result) -> bool:
    return result.kind is not Kind.PASSED and not result.held


def _details(result: Result) -> Iterable[str]:
    yield f"source: {result.source}"
    if result.expected is not None:
        yield f"expected: {result.expected}"
    if result.got is not None:
        yield f"got: {result.got}"
    for exchange in result.exchanges[-1:]:
        yield f"again: {exchange.command}"
        yield exchange.error or f"answer {exchange.status}: {exchange.answer}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
