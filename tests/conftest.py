"""Options of the whole suite.

`--no-skip` turns a skip into a failure: on a machine that is meant to have everything, a skip is a hole.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)  # a machine that others use too makes any example slow now and then
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skip", action="store_true", help="fail where a test would be skipped")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skip") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector does not look: what is gone went by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()
