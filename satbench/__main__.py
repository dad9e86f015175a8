"""`python -m satbench` is the console script."""

from satbench.cli import main

main()
