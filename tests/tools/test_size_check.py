"""The size rule counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import size_check


def test_a_body_is_counted_without_its_docstring() -> None:
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\n\ndef g(): "doc"\n'
    assert list(size_check.functions(source)) == [("f", 1, 3), ("g", 12, 0)]


def test_nested_functions_count_in_the_outer_one_too() -> None:
    source = "async def outer():\n    def inner():\n        return 1\n    return inner\n"
    assert sorted(size_check.functions(source)) == [("inner", 2, 1), ("outer", 1, 3)]


@pytest.mark.parametrize(
    ("lines", "verdict"), [(size_check.MAX_FUNCTION, 0), (size_check.MAX_FUNCTION + 1, 1), (size_check.MAX_MODULE, 1)]
)
def test_the_limit_itself_is_allowed(tmp_path: Path, lines: int, verdict: int) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "long.py").write_text("def f():\n" + "    pass\n" * lines)
    assert size_check.main(tmp_path) == verdict


def test_a_long_module_is_an_offender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "long.py").write_text("x = 1\n" * (size_check.MAX_MODULE + 1))
    assert size_check.main(tmp_path) == 1
    assert "adapters/long.py: 501 lines" in capsys.readouterr().err
