"""A line chart as PNG, drawn with Pillow: what a report needs of a plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

SIZE: Final = (900, 520)
LEFT, RIGHT, TOP, BOTTOM = 74, 330, 46, 60
FONT: Final = 15
COLOURS: Final = ("#1f5fbf", "#c43c2b", "#2c8a4b", "#7a4bb0", "#a0700a", "#555555")


@dataclass(frozen=True)
class Line:
    """One curve. dashed: a theoretical one; marks: points without a line."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    marks: bool = False


def write_chart(path: Path, title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> Path:
    """Draw curves over a logarithmic x axis; the legend stands at the right."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=FONT)
    every = [point for line in lines for point in line.points]
    x_low, x_high = (limit(math.log10(x) for x, _ in every) for limit in (min, max))
    y_low, y_high = (5.0 * way(limit(y for _, y in every) / 5.0) for limit, way in ((min, math.floor), (max, math.ceil)))
    right, bottom = SIZE[0] - RIGHT, SIZE[1] - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / max(x_high - x_low, 1e-9)
        return LEFT + across * (right - LEFT), bottom - (y - y_low) / max(y_high - y_low, 1e-9) * (bottom - TOP)

    draw.text((LEFT, 12), title, fill="black", font=font)
    draw.text((LEFT, SIZE[1] - 26), x_name, fill="black", font=font)
    draw.text((8, TOP - 22), y_name, fill="black", font=font)
    level = y_low
    while level <= y_high + 1e-9:
        _, y = place(10.0**x_low, level)
        draw.line((LEFT, y, right, y), fill="#dddddd")
        draw.text((LEFT - 36, y - 9), f"{level:g}", fill="black", font=font)
        level += 5.0
    for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if x_low - 1e-9 <= math.log10(tick) <= x_high + 1e-9:
            x, _ = place(tick, y_low)
            draw.line((x, TOP, x, bottom), fill="#eeeeee")
            draw.text((x - 12, bottom + 6), str(tick), fill="black", font=font)
    draw.rectangle((LEFT, TOP, right, bottom), outline="black")
    y = float(TOP + 12)
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        _draw(draw, [place(*point) for point in line.points], line, colour)
        _draw(draw, [(right + 14.0, y), (right + 44.0, y)], line, colour)
        draw.multiline_text((right + 52, y - 9), line.name, fill="black", font=font, spacing=2)
        y += 26.0 + 20.0 * line.name.count("\n")
    image.save(path, format="PNG")
    return path


def _draw(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], line: Line, colour: str) -> None:
    if not line.marks:
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            dashes = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6)) if line.dashed else 1
            for dash in range(0, dashes, 2):
                near, far = dash / dashes, min(1.0, (dash + 1) / dashes)
                ends = (x0 + near * (x1 - x0), y0 + near * (y1 - y0), x0 + far * (x1 - x0), y0 + far * (y1 - y0))
                draw.line(ends, fill=colour, width=2)
    if not line.dashed:
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
