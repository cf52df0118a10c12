"""``python -m benchmarks.lis.kills``: orders at a rate while the bridge is killed with -9 again and again.

Every order must be acknowledged and get one result, and no analysis may be made twice. The service is a stand-in.
With ``--kills 0`` the times are those of acknowledgements alone; transactions (fsyncs) per message are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from benchmarks.lis.standin import PIPELINE, SLIDE, StandIn, standing_in

from slidecascade_lis.simulator import OrderPlan, ResultReceiver, Tally, simulate

START_S = 60.0


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


async def measure(
    folder: Path, service: StandIn, plan: OrderPlan, *, port: int, kills: int, wait_s: float, **parts: object
) -> Tally:
    """Run a plan with kills at random moments while orders are sent; what became of them."""
    tally = Tally()
    receiver = ResultReceiver(tally)
    config = write_config(folder, service_url=service.url, port=port, result_port=await receiver.start(), **parts)
    bridge = Bridge.start(config, port)
    try:
        await bridge.listens()
        sending = asyncio.create_task(simulate(plan, tally, host="127.0.0.1", port=port, wait_s=wait_s))
        span_s = plan.orders / plan.rate_hz / max(kills, 1)
        for _ in range(kills):
            await asyncio.sleep(span_s * random.uniform(0.5, 1.0))  # noqa: S311
            bridge.kill()
            bridge = Bridge.start(config, port)
            await bridge.listens()
        await sending
        if "metrics" in parts:
            print(transactions_per_message(port + 1))
    finally:
        bridge.stop()
        await receiver.stop()
    return tally


def transactions_per_message(metrics_port: int) -> str:
    """What the last bridge process wrote for each message that it answered, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        found = re.findall(rf"^slidecascade_lis_{name}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    messages = max(total("messages"), 1.0)
    return (
        f"per message: {total('transactions') / messages:.2f} transactions with {total('changes') / messages:.2f}"
        " changes, of intake, work and delivery"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50.0, help="orders a second")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--delay", type=float, default=0.05, help="seconds that the service takes for a submission"
    )
    parser.add_argument("--port", type=int, default=12575)
    options = parser.parse_args()
    plan = OrderPlan(SLIDE, PIPELINE, options.orders, options.rate, options.connections)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, standing_in() as service:
        service.delay_s = options.delay
        tally = asyncio.run(
            measure(
                Path(folder),
                service,
                plan,
                port=options.port,
                kills=options.kills,
                wait_s=600.0,
                metrics={"port": options.port + 1},
            )
        )
        jobs = len(service.jobs)
    load = os.getloadavg()[0]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_ms = 1000 * (used.ru_utime + used.ru_stime) / options.orders
    print(f"{cpu_ms:.1f} ms of CPU per order in the bridge; at most {used.ru_maxrss / 1024:.0f} MiB")
    print(tally.report(time.monotonic() - started) + f"jobs: {jobs}; kills: {options.kills}; load: {load:.1f}")


if __name__ == "__main__":
    main()
