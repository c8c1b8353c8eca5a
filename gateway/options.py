"""What the command line says, and which of it a configuration does not allow. (IO)

Invariant: whatever is refused is refused before anything listens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from gateway.config.decode import suggestion
from gateway.config.document import ConfigError
from gateway.config.exposure import exposed
from gateway.config.settings import Settings
from gateway.config.snapshot import Snapshot
from gateway.doors import Wanted
from gateway.sources.kube.options import Options as ClusterOptions


class Options(msgspec.Struct, frozen=True):
    """What the command line says; None leaves an address to the configuration."""

    config: tuple[Path, ...] = ()
    backends: tuple[str, ...] = ()
    listen: Wanted = Wanted()
    access_log: bool = False
    log_level: str = "info"
    log_format: str = "text"
    cluster: ClusterOptions | None = None
    pool: str | None = None


def refuse_pool(name: str, options: Options, snapshot: Snapshot) -> None:
    """Raises ConfigError where nobody would pick from it. In a cluster it may be yet to come."""
    if "ext_proc" not in options.listen.of(snapshot.settings.listeners):
        raise ConfigError(["--pool: of use with --ext-proc, or listeners.extProc, only"])
    full = name if "/" in name else f"default/{name}"
    known = [pool.name for pool in snapshot.pools]
    if options.cluster is None and full not in known:
        raise ConfigError([f'--pool: no pool "{full}"{suggestion(full, known)}'])


def refuse_unguarded(settings: Settings, wanted: Wanted, bound: Iterable[str] = ()) -> None:
    """``bound``: where listeners are, whatever settings say. Raises ConfigError."""
    hosts = (host for name, (host, _) in wanted.of(settings.listeners).items() if name != "admin")
    if problem := exposed(settings, (*hosts, *bound)):
        raise ConfigError([problem])
