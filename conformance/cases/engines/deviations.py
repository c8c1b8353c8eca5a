"""What raw engines are known not to meet of the ``openai`` profile, since their adapters mend or refuse it. (P)"""

from __future__ import annotations

from collections.abc import Mapping

DEVIATIONS: Mapping[str, Mapping[str, str]] = {}
"""Engine → pattern of case ids → reason."""
