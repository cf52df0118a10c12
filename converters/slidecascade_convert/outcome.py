"""The result of the confined process: properties of the converted graph, or the cause of failure."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from slidecascade.models.spec import SegmenterSpec
from slidecascade_convert.agreement import Agreement


class Quantisation(BaseModel):
    """How the int8 graph did against the float32 one, on images it was not calibrated on.

    `loss` is the share of images (classifier) or pixels (segmenter) that are decided differently.
    """

    model_config = ConfigDict(frozen=True)

    is_kept: bool
    loss: float
    max_loss: float
    images: int
    float32_ms: float
    int8_ms: float


class Parity(BaseModel):
    """``parity.json``: where the graph came from and how far it is from its original."""

    model_config = ConfigDict(frozen=True)

    source_format: str
    source_sha256: str
    tiles: str
    agreement: Agreement
    quantisation: Quantisation | None = None
    colour_swap_changes: float | None = None
    network_was_reachable: bool
    peak_memory_mib: int
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class LibraryOutcome(BaseModel):
    """What a library's network states: its package's specification, and the library, for the model card."""

    model_config = ConfigDict(frozen=True)

    title: str
    spec: SegmenterSpec


class Outcome(BaseModel):
    """Either `refusal` (and whether the call was wrong rather than the file), or everything else.

    `library` is that of a library's network, which has no other sizes.

    The graph is `GRAPH_FILE` in the same folder.
    """

    model_config = ConfigDict(frozen=True)

    refusal: str | None = None
    is_callers_fault: bool = False
    height_px: int | None = None
    width_px: int | None = None
    multiple_of: int = 1
    parity: Parity | None = None
    library: LibraryOutcome | None = None


GRAPH_FILE = "served.onnx"
OUTCOME_FILE = "outcome.json"
REQUEST_FILE = "request.json"
TRY_FILE = "try.npy"
"""The image to try, uint8 RGB ``(H, W, 3)`` at the network's resolution; may be absent."""
TRIED_FILE = "tried.npz"
"""A `Trial`."""
