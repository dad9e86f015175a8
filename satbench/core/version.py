"""The version of satbench, which packaging reads from here."""

__version__ = "0.1.0"
