"""The configured profile of a pool → one that runs. (P)

Invariant: a profile is built anew exactly when what it is made of has changed; otherwise what it learned is kept.
"""

from __future__ import annotations

from typing import cast

from gateway.config.scheduler import Chosen, ProfileSpec, Scheduler
from gateway.config.snapshot import PoolSpec
from gateway.ports import Filter, Picker, Scorer
from gateway.schedule.affinity import sessions_of
from gateway.schedule.parts import Parts, Random
from gateway.schedule.profile import Named, Profile, Weighted
from gateway.schedule.registry import Kind


def for_pool(scheduler: Scheduler, pool: PoolSpec, rng: Random, old: Profile | None = None) -> Profile:
    """The profile that places a pool's requests: ``old``, if the configuration it was made of is still the same."""
    spec = scheduler.profile(pool.profile)
    sticky = pool.sticky
    made_of = (spec.plugin_config, spec.plugins, spec.picker, sticky)
    if old is not None and old.made_of == made_of:
        return old
    return build(spec, Parts(rng, sticky), name=pool.profile, made_of=made_of)


def build(spec: ProfileSpec, parts: Parts, *, name: str = "", made_of: object = None) -> Profile:
    """One instance, for one pool. Raises ValueError, which names it, for a plugin that fails."""
    return Profile(
        [Named(chosen.name, cast(Filter, _made(chosen, "filter", parts))) for chosen in spec.filters()],
        [
            Weighted(chosen.name, cast(Scorer, _made(chosen, "scorer", parts)), chosen.weight)
            for chosen in spec.scores()
        ],
        cast(Picker, _made(spec.picks(), "picker", parts)),
        sessions=None if parts.sticky is None else sessions_of(parts.sticky),
        name=name,
        made_of=made_of,
    )


def _made(chosen: Chosen, kind: Kind, parts: Parts) -> object:
    try:
        made = getattr(chosen.plugin, kind)(parts)
    except Exception as error:  # whatever somebody else's module does
        raise ValueError(f'plugin "{chosen.name}" made no {kind}: {type(error).__name__}: {error}') from error
    if not callable(made):
        raise ValueError(f'plugin "{chosen.name}" made no {kind} but {made!r:.60}')
    return made
