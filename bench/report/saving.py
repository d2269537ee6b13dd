"""Figures as bytes: SVG and PNG, the same each time, drawn on every core."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

DPI = 150
KINDS = ("svg", "png")
# Of the figures that `images` draws: a forked process reads them here, for a figure cannot be sent to it.
_shared: list[Figure] = []


def images(figures: Sequence[Figure]) -> list[dict[str, bytes]]:
    """Each figure's bytes by kind, `svg` and `png` (150 dpi), in order.

    Drawing takes most of a report's time and figures know nothing of each other, so every core takes
    its share, in a process of its own where the system can fork one.
    """
    cores = min(_cores(), len(figures))
    if cores < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [_image(figure) for figure in figures]
    _shared[:] = figures
    try:
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            return pool.map(_image_at, range(len(figures)), chunksize=1)
    finally:
        _shared.clear()


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _image_at(place: int) -> dict[str, bytes]:
    return _image(_shared[place])


def _image(figure: Figure) -> dict[str, bytes]:
    """A figure's bytes, without date or program in them.

    It is laid out once, for all kinds: that takes longer than drawing it.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        with matplotlib.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
    found = {}
    for kind in KINDS:
        out = io.BytesIO()
        clean = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=DPI, metadata=clean, facecolor="white")
        found[kind] = out.getvalue()
    return found
