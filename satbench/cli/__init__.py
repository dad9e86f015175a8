"""The command line."""

from satbench.cli.app import app, main

__all__ = ["app", "main"]
