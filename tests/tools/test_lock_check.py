"""A dependency that was added or raised without `make lock` is found."""

from __future__ import annotations

from pathlib import Path

from tools import lock_check


def checkout(root: Path, dependency: str, pins: dict[str, str]) -> Path:
    groups = 'build = ["hatchling"]\ntest = ["pytest>=9"]\ncheck = ["ruff"]\ndocs = ["ruff"]\nfuzz = []\n'
    (root / "pyproject.toml").write_text(f'[project]\ndependencies = ["{dependency}"]\n[dependency-groups]\n{groups}')
    (root / "requirements").mkdir()
    for name in lock_check.GROUPS:
        lock = f"hatchling==1 \\\n    --hash=sha256:00\npytest==9.1\nruff==1\n{pins[name]}\n    # via x\n"
        (root / "requirements" / f"{name}.txt").write_text(lock)
    return root


def everywhere(pin: str) -> dict[str, str]:
    return dict.fromkeys(lock_check.GROUPS, pin)


def test_a_whole_lock_has_no_problems(tmp_path: Path) -> None:
    assert lock_check.problems(checkout(tmp_path, "PyYAML>=6", everywhere("pyyaml==6.0.3 \\"))) == []


def test_a_missing_pin_is_named_for_each_file(tmp_path: Path) -> None:
    found = lock_check.problems(checkout(tmp_path, "trio", everywhere("")))
    assert found == [
        f"requirements/{name}.txt: trio is not pinned" for name in lock_check.GROUPS if name not in lock_check.BESIDE
    ]


def test_a_pin_below_the_bound_is_found(tmp_path: Path) -> None:
    found = lock_check.problems(checkout(tmp_path, "trio>=2", everywhere("trio==1.9 ; os_name == 'posix'")))
    assert found[0] == "requirements/run.txt: trio>=2 does not allow 1.9"


def test_lock_files_agree(tmp_path: Path) -> None:
    found = lock_check.problems(checkout(tmp_path, "trio", everywhere("trio==1") | {"test": "trio==2"}))
    assert found == ["trio is pinned to different versions: [['1'], ['2']]"]


def test_this_checkout_is_locked() -> None:
    assert lock_check.problems(lock_check.ROOT) == []
