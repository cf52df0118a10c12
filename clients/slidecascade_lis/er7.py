"""The ER7 encoding of HL7 v2: segments, fields, repetitions, components; reading is linear in the message's size.

Source: HL7 v2.5.1 chapter 2, sections 2.5 to 2.7 (encoding rules, escape sequences).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slidecascade_lis.rejection import DATA_TYPE, SEQUENCE, Place, rejected

MAX_SEGMENTS: Final = 20_000
_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_LINE_ENDS: Final = re.compile(r"\r\n|\n")
_PATH: Final = re.compile(r"([A-Z][A-Z0-9]{2})-([1-9]\d?)(?:\.([1-9]\d?))?(?:\.([1-9]\d?))?")


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The separators of a message, as MSH-1 and MSH-2 state them."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @property
    def msh_2(self) -> str:
        return self.component + self.repetition + self.escape + self.subcomponent

    def escaped(self, text: str) -> str:
        """`text` as the content of a component; line ends become the command ``.br``."""
        if text.isprintable() and not any(mark in text for mark in (self.field, self.escape, *self.msh_2)):
            return text
        names = {
            self.escape: "E",
            self.field: "F",
            self.component: "S",
            self.repetition: "R",
            self.subcomponent: "T",
            "\r": ".br",
            "\n": ".br",
        }
        return "".join(
            f"{self.escape}{names[letter]}{self.escape}" if letter in names else letter
            for letter in text.replace("\r\n", "\n")
            if letter in names or letter.isprintable()
        )

    def unescaped(self, text: str) -> str:
        """The content of a component as text; unknown escape sequences are left as they are."""
        if self.escape not in text:
            return text
        letters = {
            "E": self.escape,
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "T": self.subcomponent,
            ".br": "\n",
        }
        mark = re.escape(self.escape)
        return re.sub(f"{mark}([^{mark}]{{1,20}}){mark}", lambda found: letters.get(found[1], found[0]), text)


@dataclass(frozen=True, slots=True)
class Path:
    """A place in a message as configuration names it: ``OBR-4``, ``SPM-2.1``, ``SPM-2.1.1``. 0: it names none,
    and the first is taken."""

    segment: str
    field: int
    component: int = 0
    subcomponent: int = 0

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises ValueError."""
        found = _PATH.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a field such as OBR-4, SPM-2.1 or SPM-2.1.1")
        numbers = [int(number or 0) for number in found.groups()[1:]]
        return cls(found[1], *numbers)


@dataclass(frozen=True, slots=True)
class Segment:
    """One line: `fields[0]` is the name, `fields[n]` is field n, still escaped."""

    fields: tuple[str, ...]
    delimiters: Delimiters
    occurrence: int
    """Of this name in the message, from 1."""

    @property
    def name(self) -> str:
        return self.fields[0]

    def raw(self, field: int) -> str:
        """A field as it was sent, or an empty text."""
        return self.fields[field] if field < len(self.fields) else ""

    def text(self, field: int, component: int = 1, subcomponent: int = 1) -> str:
        """A component of a field's first repetition, without escapes."""
        content = self.raw(field).split(self.delimiters.repetition, 1)[0]
        for number, separator in (
            (component, self.delimiters.component),
            (subcomponent, self.delimiters.subcomponent),
        ):
            parts = content.split(separator)
            content = parts[number - 1] if number <= len(parts) else ""
        text = self.delimiters.unescaped(content).strip()
        return "" if text == '""' else text

    def place(self, field: int, component: int = 0) -> Place:
        return Place(self.name, self.occurrence, field, component)

    def encoded(self, delimiters: Delimiters) -> str:
        """The segment with other delimiters, or as it was sent if they are equal."""
        # The first two fields of MSH are the delimiters themselves.
        head, rest = (
            (("MSH", delimiters.msh_2), self.fields[3:]) if self.name == "MSH" else ((self.name,), self.fields[1:])
        )
        if delimiters != self.delimiters:
            rest = tuple(self._translated(text, delimiters) for text in rest)
        return delimiters.field.join((*head, *rest))

    def _translated(self, text: str, target: Delimiters) -> str:
        own = self.delimiters
        levels = (
            (own.repetition, target.repetition),
            (own.component, target.component),
            (own.subcomponent, target.subcomponent),
        )

        def translate(part: str, depth: int) -> str:
            if depth == len(levels):
                return target.escaped(own.unescaped(part))
            before, after = levels[depth]
            return after.join(translate(piece, depth + 1) for piece in part.split(before))

        return translate(text, 0)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that starts with its MSH segment."""

    segments: tuple[Segment, ...]

    @property
    def msh(self) -> Segment:
        return self.segments[0]

    @property
    def control_id(self) -> str:
        return self.msh.text(10)

    @property
    def type(self) -> tuple[str, str]:
        """Message code and trigger event, such as ``("OML", "O21")``."""
        return self.msh.text(9, 1), self.msh.text(9, 2)

    @property
    def sender(self) -> tuple[str, str]:
        """Sending application and facility."""
        return self.msh.text(3), self.msh.text(4)

    def first(self, name: str) -> Segment | None:
        return next((segment for segment in self.segments if segment.name == name), None)


def read_lines(text: str) -> list[str]:
    """The segments of a frame; LF and CR LF are taken as CR, blank lines are left out."""
    lines = [line for line in _LINE_ENDS.sub("\r", text).split("\r") if line.strip()]
    if len(lines) > MAX_SEGMENTS:
        raise rejected(SEQUENCE, f"The message has more than {MAX_SEGMENTS} segments: divide it.")
    return lines


def read_message(lines: Sequence[str]) -> Message:
    """A message from its lines.

    Raises:
        RejectedMessageError: the delimiters or a segment's name are invalid.
    """
    delimiters = read_delimiters(lines[0], "MSH")
    counts: dict[str, int] = {}
    segments = []
    for number, line in enumerate(lines):
        fields = line.split(delimiters.field)
        name = fields[0]
        if not _SEGMENT_NAME.fullmatch(name):
            raise rejected(
                DATA_TYPE, f"Line {number + 1} does not start with a segment name.", Place("MSH", number + 1)
            )
        if name == "MSH":
            if number:
                raise rejected(
                    SEQUENCE, "A frame with several messages needs batch segments (BHS, BTS).", Place("MSH", 2)
                )
            fields = ["MSH", delimiters.field, *fields[1:]]
        if name in ("FHS", "BHS", "BTS", "FTS"):
            raise rejected(SEQUENCE, "A batch segment stands inside of a message.", Place(name))
        counts[name] = counts.get(name, 0) + 1
        segments.append(Segment(tuple(fields), delimiters, counts[name]))
    return Message(tuple(segments))


def read_delimiters(line: str, name: str) -> Delimiters:
    """The delimiters that a header segment called `name` states.

    Raises:
        RejectedMessageError: there is no such segment, or the delimiters are not distinct punctuation.
    """
    if not line.startswith(name) or len(line) < 8:
        raise rejected(SEQUENCE, f"The message does not start with {name} and its delimiters.", Place(name))
    field = line[3]
    others = line[4:].split(field, 1)[0]
    marks = field + others[:4]
    if (
        not 4 <= len(others) <= 5
        or len(set(marks)) != 5
        or any(m.isalnum() or not m.isprintable() or m == " " for m in marks)
    ):
        raise rejected(DATA_TYPE, f"{name}-1 and {name}-2 are not five different delimiters.", Place(name, 1, 2))
    return Delimiters(field, *others[:4])


def compose(name: str, fields: Mapping[int, str], delimiters: Delimiters) -> str:
    """A segment from encoded fields by number; not for MSH."""
    last = max(fields, default=0)
    return delimiters.field.join((name, *(fields.get(number, "") for number in range(1, last + 1)))).rstrip(
        delimiters.field
    )


def components(delimiters: Delimiters, *texts: str) -> str:
    """Components of a field from texts."""
    return delimiters.component.join(map(delimiters.escaped, texts)).rstrip(delimiters.component)


def joined(lines: Iterable[str]) -> str:
    """Segments as a message: each one ends with CR."""
    return "".join(f"{line}\r" for line in lines)
