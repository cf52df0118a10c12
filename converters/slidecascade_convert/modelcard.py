"""The model card: one template for every package, bundled, trained or converted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_NOTICE: Final = "For Research Use Only. Not for use in diagnostic procedures."
_CARD: Final = """\
# {name}

{summary}

{notice}

{facts}

## How it was made

{made}
{more}
## Measured

{measured}

## Limits

{limits}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a reader must know of a model before using it. Texts are Markdown.

    Attributes:
        name: of the package.
        summary: what the network does, in a sentence or two.
        facts: rows of a table: classes, resolution, network, licence, ...
        made: where the weights come from, with the command that makes them again.
        measured: figures, and on what.
        limits: known limits and open questions; at least one.
        sections: more of them by title, before the figures.
    """

    name: str
    summary: str
    facts: Mapping[str, str]
    made: str
    measured: str
    limits: tuple[str, ...]
    sections: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.limits:
            raise ValueError(f"The card of {self.name} states no limits: every model has some.")

    @property
    def markdown(self) -> str:
        """The text of ``README.md``."""
        return _CARD.format(
            name=self.name,
            summary=self.summary.strip(),
            notice=_NOTICE,
            facts="\n".join(
                ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in self.facts.items())]
            ),
            made=self.made.strip("\n"),
            more="".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in self.sections.items()),
            measured=self.measured.strip(),
            limits="\n".join(f"- {limit}" for limit in self.limits),
        )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is on the left, the others on the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def figures_table(figures: Mapping[str, float]) -> str:
    """Figures by name as a table."""
    return table(("", ""), ((name.replace("_", " "), f"{value:.4f}") for name, value in figures.items()))
