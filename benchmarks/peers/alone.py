"""ONNX Runtime alone: the networks on the very inputs that regions led to, and nothing else. The limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.peers.cases import Case
from benchmarks.peers.composition import Composition

from slidecascade.runners.local import LocalRunner


@dataclass(frozen=True, slots=True)
class Alone:
    """Runs the calls of regions on a number of threads, whoever they are for."""

    runner: LocalRunner
    pool: ThreadPoolExecutor

    @classmethod
    def per_core(cls, composition: Composition, cores: int) -> Alone:
        """A thread per core; each call runs on one."""
        return cls(LocalRunner(composition.packages), ThreadPoolExecutor(cores))

    @classmethod
    def spread(cls, composition: Composition, cores: int) -> Alone:
        """A call at a time, spread over the cores."""
        return cls(LocalRunner(composition.packages, threads_per_call=cores), ThreadPoolExecutor(1))

    def run(self, case: Case) -> bytes:
        """The calls of a region; the answer is the known one, for nothing is decoded."""
        for future in [self.pool.submit(self.runner.run, *call) for call in case.calls]:
            future.result()
        return case.answer

    def close(self) -> None:
        self.pool.shutdown()
        self.runner.close()
