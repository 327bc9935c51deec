"""What words of a command line may be, and what is said of those that may not.

tyro reads the command line. Its own words for a mistake are Python's (`invalid literal for int()`),
differ from version to version, and know no option by another name.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from jax_softmax.errors import InputError

# Names that others give to what is here; initials (--lr) and parts of names (--rate) need none.
_OTHER_NAMES = {
    "force": "overwrite",
    "output": "run-dir",
    "random-state": "seed",
    "l2": "weight-decay",
}
# How much alike words are that are shown where none is near.
_LITTLE = 0.4
# Options that have two names.
_SYNONYMS = {"target": "label"}


def _reads(expected: str, read: Callable[[str], Any]) -> tyro.constructors.PrimitiveConstructorSpec:
    """Tells tyro how to read a word, and to say what was `expected` where it cannot be read."""

    def instance(words: list[str]) -> Any:
        try:
            return read(words[0])
        except ValueError as error:
            raise ValueError(f"expected {expected}, got {words[0]!r}.") from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="",  # each option has its own
        instance_from_str=instance,
        is_instance=lambda _default: True,
        str_from_instance=lambda default: [str(default)],
    )


def one_of(*choices: str) -> tyro.constructors.PrimitiveConstructorSpec:
    """An option that takes one of these words."""

    def read(word: str) -> str:
        if word not in choices:
            raise ValueError
        return word

    return _reads(f"one of {', '.join(choices)}", read)


whole_number = _reads("a whole number", int)
number = _reads("a number", float)
whole_number_or_none = _reads(
    "a whole number or none", lambda word: word if word == "none" else int(word)
)


def _share_or_count(word: str) -> str:
    float(word)
    return word


share_or_count = _reads("a share such as 0.2, or a whole number of rows", _share_or_count)


def in_our_words(arguments: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """The command line with our own names of options that have two.

    Raises:
      InputError: if both are given.
    """
    if not arguments or arguments[0] not in commands:
        return list(arguments)
    options = _options(commands[arguments[0]])
    names = {f"--{o}": f"--{ours}" for o, ours in _SYNONYMS.items() if ours in options}
    given = {word.partition("=")[0] for word in arguments}
    for other, name in names.items():
        if {other, name} <= given:
            raise InputError(
                f"{other}: expected {name} or {other}, which is the same, got both; leave one out."
            )

    def ours(word: str) -> str:
        name, equals, value = word.partition("=")
        return names.get(name, name) + equals + value

    return list(map(ours, arguments))


def check_words(arguments: Sequence[str], commands: Mapping[str, type]) -> None:
    """Raises InputError if the command or an option is unknown, naming the nearest there is."""
    if not arguments or arguments[0].startswith("-"):
        return
    name, *words = arguments
    if name not in commands:
        raise InputError(f"unknown command {name!r}: {_instead(name, list(commands))}")
    options = _options(commands[name])
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option[2:] not in (*options, "help", ""):
            instead = _instead(option[2:], options, f"jax-softmax {name}")
            raise InputError(f"unknown option {option} of jax-softmax {name}: {instead}")


def _options(command: type) -> list[str]:
    hints = typing.get_type_hints(command, include_extras=True)
    unnamed = (tyro.conf.Positional, tyro.conf.Suppress)
    return [
        name.replace("_", "-")
        for name, hint in hints.items()
        if not any(marker in typing.get_args(hint) for marker in unnamed)
    ]


def _instead(name: str, known: Sequence[str], command: str = "") -> str:
    """What there is instead of an unknown command, or an unknown option of a command."""
    dashes = "--" if command else ""
    near = _nearest(name, known)
    if near:
        return f"did you mean {dashes}{near}?"
    if not command:
        return f"expected one of {', '.join(known)}."
    few = difflib.get_close_matches(name, known, 3, _LITTLE)
    nearest = f"the nearest are {', '.join(dashes + other for other in few)}; " if few else ""
    return f"{nearest}`{command} --help` lists all."


def _nearest(name: str, known: Sequence[str]) -> str:
    """The one of `known` that is meant by `name`, as far as one can tell; else ""."""
    initials = {"".join(part[0] for part in other.split("-")): other for other in known}
    parts = {part: other for other in known for part in other.split("-")}
    for meant in (_OTHER_NAMES.get(name), initials.get(name), parts.get(name)):
        if meant is not None and meant in known:
            return meant
    return next(iter(difflib.get_close_matches(name, known, 1)), "")
