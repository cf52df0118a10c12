"""``python -m slidecascade`` is the command line."""

from slidecascade.cli import main

raise SystemExit(main())
