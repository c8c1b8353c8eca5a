"""What targets are tried with: the inputs kept in the repository, and any bytes near them. (IO)"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import strategies as st

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("*.py"))
Target = Callable[[bytes], None]


def target(name: str) -> Target:
    """Raises whatever is wrong."""
    found: Target = importlib.import_module(f"tests.fuzz.targets.{name}").target
    return found


def kept(name: str) -> list[Path]:
    """The files of a target: what once was a finding, then what reaches all there is to reach."""
    return [path for folder in ("findings", "corpus") for path in sorted((HERE / folder / name).glob("*"))]


def near(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, mostly a seed of which some have been replaced, left out, repeated or taken from another seed."""
    seed = st.sampled_from(seeds)
    return st.binary(max_size=64) | st.builds(
        _spliced, seed, st.lists(st.tuples(_place, _place, _new | seed), max_size=4)
    )


_place = st.integers(0, 4095)
_new = st.binary(max_size=8)


def _spliced(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, new in edits:
        at = start % (len(seed) + 1)
        seed = seed[:at] + new[:64] + seed[at + length % 16 :]
    return seed
