"""What the text of a label means: a class, present or absent, a grade of a zone, or a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from archbench.datasets import MASKED, SOFT, RawRow
from archbench.tasks import UNGRADABLE

BLANK_WORDS = frozenset({"", "nan", "na", "n/a", "null"})
NAN = float("nan")


def parse_label(text: str, *, classes: Sequence[str]) -> int | None:
    """The class index that a label text means, None for a blank one.

    A class name counts first (case does not matter), then a whole number from 0 ("2", "2.0").

    Raises:
        ValueError: If the text is neither.
    """
    word = text.strip().casefold()
    names = [name.strip().casefold() for name in classes]
    if word in names:
        return names.index(word)
    if word in BLANK_WORDS:
        return None
    try:
        number = float(word)
    except ValueError:
        raise ValueError(f"label {text!r} is not among the classes ({', '.join(classes)})") from None
    if not number.is_integer() or not 0 <= number < len(classes):
        raise ValueError(f"label {text!r} is outside 0-{len(classes) - 1}")
    return int(number)


def parse_presence(text: str) -> float | None:
    """1.0 or 0.0 of a label that is present or absent; None for a blank one, NaN for one that a policy masks.

    A soft training target, which only readers write, lies between.

    Raises:
        ValueError: If the text is neither.
    """
    word = text.strip().casefold()
    if word in BLANK_WORDS:
        return None
    if word == MASKED:
        return NAN
    try:
        number = float(word.removeprefix(SOFT))
    except ValueError:
        raise ValueError(f"label {text!r} is neither 0 nor 1") from None
    if number in (0.0, 1.0) or (word.startswith(SOFT) and 0 < number < 1):
        return number
    raise ValueError(f"label {text!r} is neither 0 nor 1")


def parse_number(text: str) -> float | None:
    """A finite number, None for a blank text; anything else raises ValueError."""
    word = text.strip().casefold()
    if word in BLANK_WORDS:
        return None
    try:
        number = float(word)
    except ValueError:
        raise ValueError(f"label {text!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"label {text!r} is not finite")
    return number


@dataclass(frozen=True)
class LabelRule:
    """How the texts of a row become targets.

    Attributes:
        outputs: What a label is, see `archbench.tasks.Task`.
        classes: Class names; of zones, with the class of ungradable ones last if they have one.
        missing: drop, error or mask.
    """

    outputs: str
    classes: tuple[str, ...]
    missing: str

    def targets(self, raw: RawRow) -> tuple[float, ...] | None:
        """The L targets, NaN where unknown; None if the row has no label.

        Raises:
            ValueError: If a text means nothing; it names the label's place.
        """
        if self.outputs == "classes":
            y = parse_label(raw.label, classes=self.classes)
            return None if y is None else (float(y),)
        if self.outputs == "value":
            number = parse_number(raw.label)
            return None if number is None else (number,)
        if self.outputs == "zones":
            return tuple(self._grade(text) for text in raw.labels)
        found = [parse_presence(text) for text in raw.labels]
        if self.missing != "mask" and any(value is None for value in found):
            return None
        values = tuple(NAN if value is None else value for value in found)
        return None if all(math.isnan(value) for value in values) else values

    def _grade(self, text: str) -> float:
        """A zone's grade; an ungradable one (blank, or the number behind the last grade) has the last class or none."""
        graded = tuple(name for name in self.classes if name != UNGRADABLE)
        unknown = float(len(graded)) if UNGRADABLE in self.classes else NAN
        word = text.strip().casefold()
        if word == UNGRADABLE.casefold() or (word.removesuffix(".0") == str(len(graded))):
            return unknown
        grade = parse_label(text, classes=graded)
        return unknown if grade is None else float(grade)
