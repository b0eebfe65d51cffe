"""``python -m agents`` is ``eddy``."""

from agents.cli import main

main()
