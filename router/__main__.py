"""`python -m router` is `throughline`."""

from router.cli import main

main()
