"""Errors that speak to the user: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PareError(Exception):
    """A problem the user can solve; shown without a traceback, exit code 2."""

    exit_code = 2


class OverBudget(PareError):
    """A demanded limit does not hold; exit code 3 so that scripts can tell.

    The message carries the limit, the figure and the excess.
    """

    exit_code = 3


class Interrupted(PareError):
    """The user stopped the run; what was finished is kept, exit code 130."""

    exit_code = 130


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a sentence that offers the nearest options to a misspelt or shortened name.

    >>> did_you_mean("reparm", ["dense", "reparam"])
    "Did you mean 'reparam'? "
    >>> did_you_mean("xyz", ["dense", "reparam"])
    ''
    >>> did_you_mean("rasp", ["raspberry-pi-4b", "raspberry-pi-5"])
    "Did you mean 'raspberry-pi-4b' or 'raspberry-pi-5'? "
    """
    known = list(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or _containing(name, known)
    return f"Did you mean {' or '.join(map(repr, close))}? " if close else ""


def _containing(name: str, options: list[str]) -> list[str]:
    """Return up to three options that hold the name, those that start with it first."""
    if len(name) < 2:  # a letter is in almost everything
        return []
    found = [option for option in options if name.lower() in option.lower()]
    return sorted(found, key=lambda o: (not o.lower().startswith(name.lower()), o))[:3]


def unknown(kind: str, name: str, options: Iterable[str]) -> PareError:
    """Build the error for a name that is not among the options.

    >>> str(unknown("method", "reparm", ["dense", "reparam"]))
    "no method named 'reparm'. Did you mean 'reparam'? Known: dense, reparam."
    """
    known = sorted(options)
    return PareError(
        f"no {kind} named {name!r}. {did_you_mean(name, known)}Known: {', '.join(known)}."
    )
