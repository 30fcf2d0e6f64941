"""`python -m services.cli` is `kb`."""

from services.cli.main import main

main()
