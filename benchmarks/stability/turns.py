"""What test-time averaging does for cells of turned and changed tiles, and what it costs.

`python -m benchmarks.stability.turns [--data DIR]` compares rendered tissue and the real tiles `DIR/liver/*.jpg`
as `benchmarks.stability` does, without averaging, with `options.tta` d4-classifiers, and with d4."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Final, get_args

from benchmarks import record
from benchmarks.stability.__main__ import MPP, compare, parser_of, sets
from benchmarks.stability.changes import changes

from slidecascade.analysis.analyser import Analyser
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade.wire import Averaging

PIPELINE: Final = "nash"
CHANGES: Final = ("rotated by 90 degrees", "mirrored", "JPEG at quality 60", "Gaussian blur, sigma 1 px")


def main() -> None:
    arguments = parser_of("benchmarks.stability.turns", __doc__, out="turns.json", side_px=384).parse_args()
    provenance = record.Provenance.here()
    analyser = Analyser(read_settings(threads=1), observer=Silent())
    steps = [change for change in changes() if change.name in CHANGES]
    rows: list[dict[str, object]] = []
    cpu_s = dict.fromkeys(get_args(Averaging), 0.0)
    try:
        for name, images in sets(arguments.data, arguments.side):
            for tta in cpu_s:
                started = time.process_time()
                found = compare(images, name, analyser, PIPELINE, steps=steps, tta=tta)
                cpu_s[tta] += time.process_time() - started
                rows += [asdict(row) | {"tta": tta} for row in found]
                print(*rows[-len(found) :], sep="\n", flush=True)
    finally:
        analyser.close()
    ratios = {tta: seconds / cpu_s["none"] for tta, seconds in cpu_s.items()}
    figures = {"mpp": MPP, "side_px": arguments.side, "rows": rows, "cpu_ratios": ratios}
    record.write(arguments.out, figures, provenance)


if __name__ == "__main__":
    main()
