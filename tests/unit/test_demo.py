"""What `slidecascade demo` says to do next."""

from __future__ import annotations

import re
from pathlib import Path

from slidecascade.commands.demo import serving_command

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def test_the_page_is_there_after_the_command_that_the_demo_names(tmp_path: Path) -> None:
    """Without a built page the command is the target that builds it; with one the page needs no `make`."""
    target = re.match(r"make ([a-z]+) SLIDES=", serving_command(tmp_path))
    assert target is not None
    recipe = re.search(rf"^{target[1]}:.*\n((?:\t.*\n)+)", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert "$(BUILD_VIEWER)" in recipe[1]
    assert "--slides" in recipe[1]

    (tmp_path / "index.html").write_text("", encoding="utf-8")
    assert serving_command(tmp_path).startswith("slidecascade serve --slides ")
