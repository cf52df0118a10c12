"""Negotiates the media type of a response by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slidecascade.errors import NotAcceptableError


@dataclass(frozen=True, slots=True)
class _Range:
    """One media range of an Accept header."""

    kind: str
    subtype: str
    quality: float

    @property
    def specificity(self) -> int:
        return (self.kind != "*") + (self.subtype != "*")

    def covers(self, media_type: str) -> bool:
        kind, _, subtype = media_type.partition("/")
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """The offer with the highest quality; among equals the more specific one, then the earlier.

    Args:
        accept: the header, several joined by commas; None or blank accepts anything.
        offers: the available media types, the default first.

    Raises:
        NotAcceptableError: when the header accepts no offer; the message lists them.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [parsed for part in accept.split(",") if (parsed := _parse(part))]
    liked = [(*_liking(ranges, offer), offer) for offer in offers]
    quality, _, best = max(liked, key=lambda item: item[:2])
    if quality <= 0:
        raise NotAcceptableError(f"No media type in Accept is available: request one of {', '.join(offers)}.")
    return best


def _liking(ranges: Sequence[_Range], offer: str) -> tuple[float, int]:
    """Quality and specificity of the most specific range that matches `offer`."""
    covering = [item for item in ranges if item.covers(offer)]
    if not covering:
        return 0.0, 0
    closest = max(covering, key=lambda item: (item.specificity, item.quality))
    return closest.quality, closest.specificity


def _parse(part: str) -> _Range | None:
    """None for an invalid media range, which is ignored."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    kind, slash, subtype = name.partition("/")
    if not (slash and kind and subtype) or (kind == "*" and subtype != "*"):
        return None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return _Range(kind, subtype, _quality(value.strip()))
    return _Range(kind, subtype, 1.0)


def _quality(text: str) -> float:
    """A weight from 0 to 1; 0 for an invalid one."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return min(quality, 1.0) if quality >= 0 else 0.0  # NaN compares false
