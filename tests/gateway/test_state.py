"""What a reload that names a Redis for the first time costs everybody else."""

from __future__ import annotations

import subprocess
import sys

from tests.process import ROOT

_CODE = """
import sys
import gateway.app
from gateway.state import State

known = set(sys.modules)
assert "coredis" not in known
State.check(None)
assert set(sys.modules) == known
State.check(object())
assert {"coredis.client", "gateway.store.redis", "gateway.store.carrier"} <= set(sys.modules)
"""


def test_what_redis_takes_is_imported_when_the_configuration_is_checked_which_is_in_a_thread() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
