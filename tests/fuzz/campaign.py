"""Fuzzes one target, guided by the branches that inputs reach: ``python tests/fuzz/campaign.py TARGET``.

Without a target it lists them. ``FUZZ_SECONDS`` is the time. It starts from ``corpus/TARGET`` and keeps what
reaches new branches in ``FUZZ_KEEP``, by default nowhere. A finding ends it with another exit code than 0, and is
written to ``FUZZ_KEEP``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from fuzz.targets import REFUSED, TARGETS  # noqa: E402 - from this folder

HANG_S = 60
MEMORY_MIB = 2048
LONGEST_INPUT = 2**14


def main(name: str) -> None:
    """Fuzz until the time is over; does not return."""
    warnings.simplefilter("ignore")  # libraries say what they think of odd files
    target = TARGETS[name]

    def once(data: bytes) -> None:
        with suppress(REFUSED):
            target.run(data)

    with atheris.instrument_imports(include=list(target.modules)):
        for file in (HERE / "corpus" / name).iterdir():
            once(file.read_bytes())  # imports what it calls
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(os.environ.get("FUZZ_KEEP", scratch))
        kept.mkdir(parents=True, exist_ok=True)
        words = Path(scratch) / "words"
        words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.dictionary))
        seconds = os.environ.get("FUZZ_SECONDS", "60")
        arguments = [
            f"-max_total_time={seconds}",
            f"-timeout={HANG_S}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={LONGEST_INPUT}",
            f"-dict={words}",
            f"-artifact_prefix={kept}/",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *arguments, str(kept), str(HERE / "corpus" / name)], once)
        atheris.Fuzz()


def _quoted(word: str) -> str:
    """In libFuzzer's notation, in which a word's own quotes and bytes are written in hexadecimal digits."""
    raw = word.encode("latin-1").decode("unicode_escape")
    return "".join(f"\\x{ord(letter):02x}" for letter in raw)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    print("\n".join(TARGETS))
