"""`python -m router` is `throughline`."""

from router.cli.app import main

main()
