"""Figures as SVG and PNG bytes, deterministic, drawn on all cores."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterable
from multiprocessing import connection
from multiprocessing.connection import Connection

import matplotlib
from matplotlib.figure import Figure

from bench.system import machine

DPI = 150
KINDS = ("svg", "png")


def images(figures: Iterable[Figure]) -> list[dict[str, bytes]]:
    """Each figure's bytes by kind, `svg` and `png` (150 dpi), in order.

    Drawing takes most of a report's time and figures are independent: each is drawn in its own process,
    forked as soon as the figure exists, as many at a time as there are cores, while the next ones are
    created. If the system cannot fork, they are drawn in this process.
    """
    count = machine.cores()
    if count < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [_image(figure) for figure in figures]
    found: dict[int, dict[str, bytes]] = {}
    drawing: dict[Connection, int] = {}

    def collect(most: int) -> None:
        while len(drawing) > most:
            for end in connection.wait(list(drawing)):
                assert isinstance(end, Connection)
                drawn = end.recv()
                if isinstance(drawn, Exception):
                    raise drawn
                found[drawing.pop(end)] = drawn

    for place, figure in enumerate(figures):
        collect(count - 1)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        # Inherited by the fork: a figure cannot be pickled.
        multiprocessing.get_context("fork").Process(target=_send, args=(figure, theirs), daemon=True).start()
        theirs.close()
        drawing[ours] = place
    collect(0)
    return [found[place] for place in range(len(found))]


def _send(figure: Figure, end: Connection) -> None:
    try:
        end.send(_image(figure))
    except Exception as error:  # raised by the report, which would otherwise wait for the figure
        end.send(error)


def _image(figure: Figure) -> dict[str, bytes]:
    """A figure's bytes, without date and program in the metadata.

    The layout is computed once for all file types: it takes longer than drawing.
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
