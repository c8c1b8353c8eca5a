"""What a gateway would tell of its engines is known where they are simulated. (IO)"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Only the gateway's errors are logged."""
    logger = logging.getLogger("infer_gateway")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
