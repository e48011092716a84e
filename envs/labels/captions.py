"""Captions: what a person would say of a frame, made of a game's variables, and read back into facts."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "<unknown>"  # stands for a word that a vocabulary lacks: a fact, though nobody can say which
LEAP = 40  # a variable that changes by more in a step was set anew: nothing moved that far

Values = Mapping[str, int]  # of a game's variables, by name


@dataclass(frozen=True)
class Where:
    """One of `words` by where a variable lies: the first below edges[0], the last from edges[-1] on."""

    variable: str
    words: tuple[str, ...]
    edges: tuple[int, ...]
    signed: bool = False

    def word(self, now: Values, before: Values) -> str:  # noqa: ARG002
        """Return the word for a variable's value now."""
        value = now[self.variable]
        return self.words[bisect_right(self.edges, value - 256 if self.signed and value > 127 else value)]


@dataclass(frozen=True)
class Motion:
    """One of three words by whether a variable fell, stayed or rose since the step before."""

    variable: str
    words: tuple[str, str, str]

    def word(self, now: Values, before: Values) -> str:
        """Return the word for a variable's change."""
        change = now[self.variable] - before[self.variable]
        return self.words[0 if -LEAP <= change < 0 else 2 if 0 < change <= LEAP else 1]


@dataclass(frozen=True)
class Count:
    """A number, of one variable or of several that have its digits, the highest first."""

    variables: tuple[str, ...]
    decimal: bool = True
    """Whether a byte is two decimal digits (binary coded decimal); else it is plain binary."""
    words: tuple[str, ...] = ()  # any number

    def word(self, now: Values, before: Values) -> str:  # noqa: ARG002
        """Return the number in digits."""
        total = 0
        for name in self.variables:
            value = now[name]
            total = 100 * total + (10 * (value >> 4) + (value & 15) if self.decimal else value)
        return str(total)


Slot = Where | Motion | Count


@dataclass(frozen=True)
class Phrase:
    """Part of a caption: words with slots in braces, each of which says one fact."""

    words: str
    slots: dict[str, Slot]
    gone: tuple[str, int] | None = None
    """A variable, and the value that it has while there is nothing to speak of."""
    otherwise: str = ""
    """What is said then."""

    def says(self, now: Values, before: Values) -> str:
        """Return the phrase for these variables."""
        if self.gone is not None and now[self.gone[0]] == self.gone[1]:
            return self.otherwise
        return self.words.format(**{name: slot.word(now, before) for name, slot in self.slots.items()})

    def facts(self, said: str) -> dict[str, str]:
        """Return what `said` claims: each slot's word, or that there is nothing to speak of; empty if it is no such."""
        if self.otherwise and said == self.otherwise:
            return {self.otherwise: "yes"}
        pattern = re.escape(self.words).replace(r"\{", "{").replace(r"\}", "}")
        for name, slot in self.slots.items():
            words = "|".join(map(re.escape, sorted(slot.words, key=len, reverse=True))) or r"\d+"
            pattern = pattern.replace(f"{{{name}}}", f"(?P<{name}>{words}|{UNKNOWN})")
        found = re.fullmatch(pattern, said)
        return {} if found is None else found.groupdict()


def captions(
    phrases: Sequence[Phrase], columns: Mapping[str, NDArray[np.uint8]], first: NDArray[np.bool_]
) -> list[str]:
    """Return a caption for each step.

    Args:
        phrases: of the game.
        columns: its variables, (N,) each.
        first: (N,), whether a step is its episode's first, before which nothing moved.
    """
    steps: Iterator[Values] = (
        dict(zip(columns, values, strict=True)) for values in zip(*(c.tolist() for c in columns.values()), strict=True)
    )
    said, before = [], {}
    for now, is_first in zip(steps, first.tolist(), strict=True):
        before = now if is_first else before
        said.append("; ".join(phrase.says(now, before) for phrase in phrases))
        before = now
    return said


def facts(phrases: Sequence[Phrase], caption: str) -> dict[str, str]:
    """Return what a caption claims, by slot; what it says that no phrase could is left out."""
    claimed: dict[str, str] = {}
    for said in caption.split(";"):
        for phrase in phrases:
            claimed |= phrase.facts(said.strip())
    return claimed


def share_true(claimed: Mapping[str, str], true: Mapping[str, str]) -> float:
    """Return the share of true facts among all that either side has: what is missing counts as what is wrong."""
    every = claimed.keys() | true.keys()
    return sum(claimed.get(name) == true.get(name) for name in every) / max(len(every), 1)
