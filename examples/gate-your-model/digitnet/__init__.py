"""A small network for 8x8 digits."""

from digitnet.model import load

__all__ = ["load"]
