"""``python -m benchmarks.lis.kills``: orders at a rate while the bridge is killed with -9 again and again.

Every order must be acknowledged and get one result, and no analysis may be made twice. The service is a stand-in.
With ``--kills 0`` the times are those of acknowledgements alone, and memory is that of one process over all
orders. Figures go to ``benchmarks/results/lis-kills.json`` or ``lis-rate.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from benchmarks import record
from benchmarks.lis.standin import PIPELINE, SLIDE, standing_in_apart

from slidecascade_lis.simulator import OrderPlan, ResultReceiver, Tally, quantiles, simulate

START_S: Final = 60.0
JOB_S: Final = 0.1
_SAMPLE_S: Final = 2.0
_FSYNCS: Final = 200


@dataclass
class Bridge:
    """A bridge process; only the one started here is ever signalled, by its id."""

    config: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, config: Path, port: int, *, environment: Mapping[str, str] | None = None) -> Bridge:
        """Start ``slidecascade lis serve``; it may not listen yet."""
        log = config.parent / "bridge.jsonl"
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "slidecascade", "lis", "serve", "--config", str(config)],
                stderr=stderr,
                stdout=stderr,
                env=dict(environment or os.environ),
            )
        return cls(config, port, process, log)

    async def listens(self) -> None:
        """Wait until it takes connections."""
        ends_at = time.monotonic() + START_S
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if self.process.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"The bridge does not listen; its log: {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)

    def memory_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return 0.0 if found is None else int(found[1]) / 1024

    def cpu_s(self) -> float:
        """CPU time since its start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop it in order; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def write_config(folder: Path, *, service_url: str, port: int, result_port: int, **parts: object) -> Path:
    """A ``lis.yaml`` for the simulator's orders; `parts` replaces top-level parts."""
    content: dict[str, object] = {
        "listen": {"port": port},
        "service": {"url": service_url, "poll_s": 0.1, "max_jobs": 16},
        "store": {"database": str(folder / "lis.sqlite")},
        "orders": {"slide": {"take": ["OBR-13"]}, "pipeline": {"take": ["OBR-4"]}},
        "receivers": {"lis": {"host": "127.0.0.1", "port": result_port, "first_retry_s": 0.2, "max_retry_s": 1}},
    }
    path = folder / "lis.yaml"
    path.write_text(yaml.safe_dump(content | parts), encoding="utf-8")
    return path


@dataclass
class Usage:
    """What bridge processes used after their start: CPU time of all, and of the last one memory by acknowledged
    orders and transactions for each message."""

    cpu_s: float = 0.0
    memory: list[dict[str, float]] = field(default_factory=list)
    transactions_per_message: float = 0.0


async def measure(
    folder: Path,
    service_url: str,
    plan: OrderPlan,
    *,
    port: int,
    kills: int,
    wait_s: float,
    usage: Usage | None = None,
    **parts: object,
) -> Tally:
    """Run a plan with kills at random moments while orders are sent; what became of them."""
    tally = Tally()
    receiver = ResultReceiver(tally)
    config = write_config(folder, service_url=service_url, port=port, result_port=await receiver.start(), **parts)
    bridge = Bridge.start(config, port)
    used = usage or Usage()
    try:
        await bridge.listens()
        sending = asyncio.create_task(simulate(plan, tally, host="127.0.0.1", port=port, wait_s=wait_s))
        started_s = bridge.cpu_s()
        span_s = plan.orders / plan.rate_hz / max(kills, 1)
        for _ in range(kills):
            await asyncio.sleep(span_s * random.uniform(0.5, 1.0))  # noqa: S311
            used.cpu_s += bridge.cpu_s() - started_s
            bridge.kill()
            bridge = Bridge.start(config, port)
            await bridge.listens()
            started_s = bridge.cpu_s()
        while not sending.done():
            used.memory.append({"acknowledged": len(tally.acknowledged), "mib": round(bridge.memory_mib(), 1)})
            await asyncio.wait([sending], timeout=_SAMPLE_S)
        sending.result()
        used.cpu_s += bridge.cpu_s() - started_s
        if "metrics" in parts:
            used.transactions_per_message = transactions_per_message(port + 1)
    finally:
        bridge.stop()
        await receiver.stop()
    return tally


def transactions_per_message(metrics_port: int) -> float:
    """Transactions of the last bridge process, by its metrics, for each message that it answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        found = re.findall(rf"^slidecascade_lis_{name}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    return total("transactions") / max(total("messages"), 1.0)


def fsync_s(folder: Path) -> list[float]:
    """How long the disk takes to keep 4 KiB, again and again: no acknowledgement can come sooner."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return times


def figures(
    plan: OrderPlan, kills: int, tally: Tally, jobs: int, usage: Usage, fsyncs_s: Sequence[float]
) -> dict[str, Any]:
    """What is written."""

    def pair(values: Sequence[float], *, factor: float = 1.0, less: float = 0.0) -> dict[str, float]:
        p50, p95 = quantiles(values)
        return {"p50": round(factor * (p50 - less), 3), "p95": round(factor * (p95 - less), 3)}

    return {
        "orders": plan.orders,
        "rate_hz": plan.rate_hz,
        "connections": plan.connections,
        "kills": kills,
        "acknowledged": len(tally.acknowledged),
        "rejected": len(tally.rejected),
        "lost": len(tally.lost),
        "done_twice": len(tally.doubled) + max(jobs - len(tally.acknowledged), 0),
        "sends": tally.sends,
        "results_repeated": tally.repeated_results,
        "acknowledged_ms": pair(tally.ack_s, factor=1000),
        "fsync_ms": pair(fsyncs_s, factor=1000),
        "beyond_job_s": pair(tally.result_s, less=JOB_S),
        "bridge_cpu_ms": round(1000 * usage.cpu_s / plan.orders, 2),
        "transactions_per_message": round(usage.transactions_per_message, 3),
        "memory_mib": usage.memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50.0, help="orders a second")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--delay", type=float, default=0.05, help="seconds that the service takes for a submission"
    )
    parser.add_argument("--port", type=int, default=12575)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the figures")
    options = parser.parse_args()
    plan = OrderPlan(SLIDE, PIPELINE, options.orders, options.rate, options.connections)
    provenance = record.Provenance.here()
    usage = Usage()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        standing_in_apart(seconds=JOB_S, delay_s=options.delay) as service,
    ):
        fsyncs_s = fsync_s(Path(folder))
        tally = asyncio.run(
            measure(
                Path(folder),
                service.url,
                plan,
                port=options.port,
                kills=options.kills,
                wait_s=600.0,
                usage=usage,
                metrics={"port": options.port + 1},
                service={"url": service.url, "poll_s": 0.1, "max_jobs": 64},
            )
        )
        found = figures(plan, options.kills, tally, service.jobs(), usage, fsyncs_s)
    name = "lis-kills.json" if options.kills else "lis-rate.json"
    record.write(options.out / name, found, provenance)
    print(tally.report(time.monotonic() - started) + json.dumps(found))
    is_right = found["acknowledged"] == plan.orders and not (found["lost"] or found["done_twice"])
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
