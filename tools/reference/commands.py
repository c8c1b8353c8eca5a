"""Every command and option, as the program's own parser has them. (P)"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gateway.cli import parser
from tools.reference.markdown import NOTE, code, plain, table

_HEAD = """# Command line

`infer-gateway COMMAND --help` says the same. Exit codes: 0 stopped as asked, 1 bad configuration, 2 bad usage, 3 cannot
bind, 4 crashed; `conformance` and `bench` end with 1 where a case, or the load, has failed.

"""


def page() -> tuple[str, list[str]]:
    """The page, and which options say nothing of themselves."""
    top = parser()
    lacking: list[str] = []
    text = NOTE + _HEAD + "".join(_described(name, each, about, lacking) for name, each, about in _commands(top))
    return text.rstrip("\n") + "\n", lacking


def _commands(above: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """(name, parser, what it is for) of each command, each followed by those below it."""
    for action in above._actions:
        if isinstance(action, argparse._SubParsersAction):
            abouts = {each.dest: each.help or "" for each in action._choices_actions}
            for name, each in action.choices.items():
                yield each.prog, each, each.description or abouts.get(name, "")
                yield from _commands(each)


def _described(name: str, command: argparse.ArgumentParser, about: str, lacking: list[str]) -> str:
    shown = [each for each in command._actions if each.help is not argparse.SUPPRESS and each.dest != "help"]
    places = [each for each in shown if not each.option_strings and not isinstance(each, argparse._SubParsersAction)]
    name = f"infer-gateway {name.partition(' ')[2].split(' [')[0]}"
    words = " ".join(_value(each) + (" …" if each.nargs in ("+", "*") else "") for each in places)
    options = [each for each in shown if each.option_strings or each in places]
    rows = [(_called(each), _default(each), plain(_help(name, each, lacking))) for each in options]
    lines = f"## {name}\n\n{plain(about[:1].upper() + about[1:])}.\n\n".replace("..", ".")
    used = f"```text\n{name}{' [OPTIONS]' if len(options) > len(places) else ''}{' ' + words if words else ''}\n```\n\n"
    return lines + used + (table(("Option", "Default", "Meaning"), rows) if rows else "")


def _called(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else _value(action)
    if not action.option_strings:
        return code(value)
    return ", ".join(code(f"{name} {value}".strip()) for name in action.option_strings)


def _value(action: argparse.Action) -> str:
    """How its value is written in usages."""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is None and action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.metavar or action.dest.upper()


def _default(action: argparse.Action) -> str:
    value = action.default
    if value is None or value is False or value is argparse.SUPPRESS or value == [] or value == ():
        return ""
    if isinstance(value, list | tuple):
        return code(" ".join(map(str, value)))
    return code(
        value.as_posix() if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _help(name: str, action: argparse.Action, lacking: list[str]) -> str:
    if not action.help:
        lacking.append(f"{name} {action.option_strings or action.dest}")
        return ""
    return action.help % {**vars(action), "prog": name}
