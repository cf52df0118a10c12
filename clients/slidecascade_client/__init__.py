"""Client of the SlideCascade service, sync and async. For research use only.

>>> from slidecascade_client import Client
>>> with Client("http://localhost:3000") as client:
...     result = client.analyze_region("tile.png", pipeline="nash", mpp=0.5)
>>> result.counts
>>> result.save("out/")
"""

from slidecascade.wire import (
    ModelInfo,
    PipelineInfo,
    Problem,
    RegionBox,
    SlideInfo,
    SlideList,
    Summary,
)
from slidecascade_client.async_client import AsyncClient
from slidecascade_client.cells import Cell, Cells
from slidecascade_client.client import Client
from slidecascade_client.errors import (
    AccessDeniedError,
    ClientClosedError,
    ConnectionFailedError,
    DeadlineExceededError,
    DrainingError,
    EventLoopError,
    ImplausibleResolutionError,
    InternalServiceError,
    InvalidRequestError,
    MalformedRequestError,
    MisdirectedRequestError,
    MissingResolutionError,
    ModelFailedError,
    NotAcceptableError,
    NotReadyError,
    OverloadedError,
    ProxyFailedError,
    RegionOutsideSlideError,
    RegionTooLargeError,
    RequestRefusedError,
    RequestTimeoutError,
    RetryLaterError,
    ServiceFailedError,
    SlideCascadeClientError,
    TilesFailedError,
    TimedOutError,
    UndecodableImageError,
    UnexpectedAnswerError,
    UnknownHeatmapError,
    UnknownModelError,
    UnknownPipelineError,
    UnknownSlideError,
    UnreadableSlideError,
    UnsupportedMediaTypeError,
    UploadTooLargeError,
)
from slidecascade_client.result import RegionResult
from slidecascade_client.retry import RetryPolicy
from slidecascade_client.shapes import Area, Tile

__all__ = [
    "AccessDeniedError",
    "Area",
    "AsyncClient",
    "Cell",
    "Cells",
    "Client",
    "ClientClosedError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "DrainingError",
    "EventLoopError",
    "ImplausibleResolutionError",
    "InternalServiceError",
    "InvalidRequestError",
    "MalformedRequestError",
    "MisdirectedRequestError",
    "MissingResolutionError",
    "ModelFailedError",
    "ModelInfo",
    "NotAcceptableError",
    "NotReadyError",
    "OverloadedError",
    "PipelineInfo",
    "Problem",
    "ProxyFailedError",
    "RegionBox",
    "RegionOutsideSlideError",
    "RegionResult",
    "RegionTooLargeError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "RetryLaterError",
    "RetryPolicy",
    "ServiceFailedError",
    "SlideCascadeClientError",
    "SlideInfo",
    "SlideList",
    "Summary",
    "Tile",
    "TilesFailedError",
    "TimedOutError",
    "UndecodableImageError",
    "UnexpectedAnswerError",
    "UnknownHeatmapError",
    "UnknownModelError",
    "UnknownPipelineError",
    "UnknownSlideError",
    "UnreadableSlideError",
    "UnsupportedMediaTypeError",
    "UploadTooLargeError",
]
