"""Idempotency keys of jobs: how they are stored, what they stand for, and the jobs that were made with them."""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa

from slidecascade.errors import IdempotencyMismatchError
from slidecascade.jobs.database import JOBS
from slidecascade.wire import JobRequest

_LONGEST_KEY: Final = 255
"""That is stored as it is; those of a batch's jobs are longer than what clients may send."""


def owned_key(key: str | None, owner: str | None) -> str | None:
    """An idempotency key as it is stored: the same key of two owners is two keys, and a long one its digest."""
    if key is None or (owner is None and len(key) <= _LONGEST_KEY):
        return key
    whole = f"{owner or ''} {key}"  # a key has no spaces
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"


def digest_of(request: JobRequest, image: str | None) -> str:
    """Of a request and the SHA-256 of its upload: what an idempotency key stands for."""
    return hashlib.sha256(f"{request.model_dump_json()}{image or ''}".encode()).hexdigest()


def job_with(connection: sa.Connection, key: str | None, digest: str) -> str | None:
    """The job that was made with `key`."""
    if key is None:
        return None
    found = connection.execute(
        sa.select(JOBS.c.id, JOBS.c.payload_sha256).where(JOBS.c.idempotency_key == key)
    ).one_or_none()
    if found is not None and found.payload_sha256 != digest:
        raise IdempotencyMismatchError(
            "This Idempotency-Key was sent before with another request: use a new key for a new job."
        )
    return None if found is None else str(found.id)
