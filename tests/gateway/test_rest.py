import time
from pathlib import Path

import pytest

from gateway.rest import rest


@pytest.mark.parametrize("known", [True, False])
def test_a_thread_that_sleeps_rests_and_one_that_runs_does_not(known: bool, tmp_path: Path) -> None:
    rested = rest() if known else rest(str(tmp_path / "none"))
    before, worked = rested(), time.thread_time()
    while time.thread_time() - worked < 0.05:
        pass
    awake = rested() - before
    before = rested()
    time.sleep(0.5)
    asleep = rested() - before
    assert asleep > 0.4
    if known:
        assert awake < asleep


def test_what_is_no_statistic_is_not_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("")
    before = rest(str(tmp_path / "schedstat"))()
    assert rest(str(tmp_path / "schedstat"))() >= before
