"""``make bench-lis``: acknowledgements and memory at a rate, then the same orders during kills, then the page."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.page import write_page

if __name__ == "__main__":
    codes = [
        subprocess.run([sys.executable, "-m", "benchmarks.lis.kills", "--kills", kills], check=False).returncode
        for kills in ("0", "20")
    ]
    write_page()
    sys.exit(max(codes))
