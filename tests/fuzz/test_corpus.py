"""Every input that is kept, and some near them, through each target: what fuzzing once found stays found."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.inputs import HERE, TARGETS, kept, near, target
from tests.fuzz.run import KEPT


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str) -> None:
    run = target(name)
    inputs = kept(name)
    assert len(inputs) > 5
    for path in inputs:
        try:
            run(path.read_bytes())
        except Exception as error:
            error.add_note(f"the input is {path}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_near(name: str) -> None:
    run = target(name)

    @settings(max_examples=100, database=None, suppress_health_check=list(HealthCheck))
    @given(near([path.read_bytes() for path in kept(name)]))
    def some(data: bytes) -> None:
        run(data)

    some()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_is_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (HERE / "corpus" / name).iterdir()) <= KEPT


def test_each_folder_belongs_to_a_target() -> None:
    for folder in ("corpus", "findings"):
        assert {path.name for path in (HERE / folder).iterdir()} <= set(TARGETS)
