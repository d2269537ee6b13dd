"""Bayesian-ensemble methods compared on the same networks, the same data and the same questions."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ensemble-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"
