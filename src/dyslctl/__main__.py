"""``python -m dyslctl``."""

from dyslctl.cli import main

main()
