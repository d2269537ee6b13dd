"""Letters A-J processed like scikit-learn's digits: the outliers of task `digits`, without a download.

The digits are 32x32 bitmaps of pen strokes, scaled to full height, reduced by counting ink in 4x4 blocks:
8x8 pixels of 0 to 16 (Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits"). Here
outlines of printed letters are processed in the same way, with the same share of ink as digits, so that
letters cannot be recognised by sharpness, brightness or size.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from scipy.ndimage import distance_transform_edt

from bench.errors import DataError

LETTERS = "ABCDEFGHIJ"  # notMNIST's classes, in its order
BITMAP, BLOCK = 32, 4  # the digits' own bitmaps and blocks
# Font files shipped with matplotlib, so that the set does not depend on system fonts.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "DejaVuSansMono", "DejaVuSansMono-Bold",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmti10", "cmss10", "cmtt10",
)  # fmt: skip
# Maximum width and shift to the right, in bitmap pixels: digits are about 20 to 24 wide and slightly
# right of the centre (measured: column 0 is blank in 99 % of them, column 7 in 88 %).
PLACES = ((20, -0.5), (24, 1.0))
# Share of ink in a bitmap: the 5 % and 95 % quantiles of the 1,797 digits (measured).
INK = (0.255, 0.360)


def _outline(font: str, letter: str) -> list[np.ndarray]:
    """The closed curves of a letter, unhinted, in 1/100 of the font's size."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file() or not get_font(str(path)).get_char_index(ord(letter)):
        raise DataError(
            f"letters: expected {letter!r} in {path}, shipped with matplotlib, found "
            f"{'no such letter' if path.is_file() else 'no such file'}; reinstall matplotlib"
        )
    text = TextPath((0, 0), letter, size=100, prop=FontProperties(fname=str(path)))
    return [np.asarray(curve) for curve in text.to_polygons()]


def _bitmap(curves: list[np.ndarray], width: float, shift: float) -> np.ndarray:
    """The letter as ink on a bitmap, [32, 32] bool: full height, at most `width` wide."""
    low = np.min([curve.min(0) for curve in curves], axis=0)
    high = np.max([curve.max(0) for curve in curves], axis=0)
    tall = BITMAP / (high[1] - low[1])
    scale = np.array([min(tall, width / (high[0] - low[0])), -tall])  # rows count downwards
    centre = np.array([BITMAP / 2 + shift, BITMAP / 2])
    grid = np.arange(BITMAP) + 0.5
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    ink = np.zeros(len(points), dtype=bool)
    for curve in curves:  # even-odd: a curve inside another one is a hole
        ink ^= Outline((curve - (low + high) / 2) * scale + centre).contains_points(points)
    return ink.reshape(BITMAP, BITMAP)


def _pen(ink: np.ndarray) -> np.ndarray:
    """The bitmap with strokes widened or narrowed until its share of ink is in the range of digits."""
    target = np.clip(ink.mean(), *INK)
    distance = distance_transform_edt(~ink) - distance_transform_edt(ink)  # to the edge; negative inside
    steps, counts = np.unique(distance, return_counts=True)
    shares = np.cumsum(counts) / distance.size
    return distance <= steps[np.argmin(np.abs(shares - target))]


@cache
def letters() -> tuple[np.ndarray, np.ndarray]:
    """360 letters as images of 17 grey levels: 18 fonts, 10 letters, 2 places, in that order.

    Returns levels [360, 8, 8] uint8, 0..16, white on black, and labels [360] int64, 0..9 for A..J,
    both read-only. Deterministic: outlines are unhinted and filled geometrically. A few images
    coincide, such as the plain bar of the I in several fonts.
    Raises: DataError if matplotlib lacks a font or a letter.
    """
    blocks = BITMAP // BLOCK
    levels = []
    for font in FONTS:
        for letter in LETTERS:
            curves = _outline(font, letter)
            for place in PLACES:
                ink = _pen(_bitmap(curves, *place))
                levels.append(ink.reshape(blocks, BLOCK, blocks, BLOCK).sum((1, 3)))
    images = np.array(levels, dtype=np.uint8)
    labels = np.tile(np.repeat(np.arange(len(LETTERS)), len(PLACES)), len(FONTS))
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels
