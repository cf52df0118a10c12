"""The settings that peers document for throughput, and the values of them that are tried.

Sources: LitServe's guides to batching and autoscaling, ``ray.serve.batch`` and Ray Serve's resource allocation,
Triton's model configuration (dynamic batcher, instance groups), BentoML's adaptive batching and workers."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """One choice of settings. A contender that has none to choose runs with its defaults."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values())

    def values(self) -> list[tuple[str, str]]:
        """Names and values, as they are written on a command line."""
        return [(field.name, f"{getattr(self, field.name):g}") for field in fields(self)]

    def options(self) -> list[str]:
        """The options that give a peer's program all of them: ``--batch 8 --wait-s 0.05``."""
        return [word for name, value in self.values() for word in (f"--{name.replace('_', '-')}", value)]

    def variables(self) -> dict[str, str]:
        """The same as environment variables, for a program that another one starts: ``PEER_BATCH=8``."""
        return {f"PEER_{name.upper()}": value for name, value in self.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LitServeKnobs(Knobs):
    """``workers_per_device``, ``max_batch_size`` (1: no batching) and ``batch_timeout`` in seconds."""

    workers: int
    batch: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RayKnobs(Knobs):
    """``num_replicas`` of the segmenter, ``max_batch_size`` and ``batch_wait_timeout_s`` of ``serve.batch``."""

    replicas: int
    batch: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonKnobs(Knobs):
    """``count`` of every instance group, ``max_batch_size``, ``max_queue_delay_microseconds``."""

    instances: int
    batch: int
    delay_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BentoKnobs(Knobs):
    """``workers`` of every network's service, ``max_batch_size`` and ``max_latency_ms`` of its API."""

    workers: int
    batch: int
    latency_ms: int


def litserve_batching(cores: int) -> tuple[LitServeKnobs, ...]:
    """Batches of a few regions; as many workers as cores, and twice as many."""
    return tuple(
        LitServeKnobs(workers=workers, batch=batch, wait_s=wait_s)
        for workers, batch, wait_s in (
            (cores, 8, 0.05),
            (cores, 8, 0.01),
            (cores, 4, 0.05),
            (cores, 4, 0.01),
            (2 * cores, 4, 0.01),
            (2 * cores, 2, 0.01),
        )
    )


def litserve_single(cores: int) -> tuple[LitServeKnobs, ...]:
    """A region at a time in each worker."""
    return tuple(LitServeKnobs(workers=workers, batch=1, wait_s=0.0) for workers in (cores, 2 * cores))


def ray(cores: int) -> tuple[RayKnobs, ...]:
    """The documented default wait, a shorter one and none; batches of 8, of 4, and none."""
    return tuple(
        RayKnobs(replicas=replicas, batch=batch, wait_s=wait_s)
        for replicas, batch, wait_s in (
            (cores, 8, 0.01),
            (cores, 8, 0.002),
            (cores, 4, 0.01),
            (cores, 1, 0.0),
            (1, 8, 0.01),
        )
    )


def triton(cores: int) -> tuple[TritonKnobs, ...]:
    """Instances on every core or one, with and without waiting for a batch; a message alone may hold 32 crops."""
    return tuple(
        TritonKnobs(instances=instances, batch=batch, delay_us=delay_us)
        for instances, batch, delay_us in (
            (cores, 32, 2000),
            (cores, 32, 0),
            (cores, 32, 500),
            (cores, 64, 2000),
            (1, 32, 2000),
        )
    )


def bento(cores: int) -> tuple[BentoKnobs, ...]:
    """BentoML's defaults first; smaller batches with a shorter window; more workers."""
    return tuple(
        BentoKnobs(workers=workers, batch=batch, latency_ms=latency_ms)
        for workers, batch, latency_ms in (
            (1, 100, 60_000),
            (1, 32, 1_000),
            (cores, 100, 60_000),
            (cores, 32, 1_000),
        )
    )
