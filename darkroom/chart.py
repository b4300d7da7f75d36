"""A line chart as PNG, drawn with Pillow: what a report needs of a plotting library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

SIZE: Final = (900, 520)
LEFT, RIGHT, TOP, BOTTOM = 74, 330, 62, 60
FONT: Final = 15
COLOURS: Final = ("#1f5fbf", "#c43c2b", "#2c8a4b", "#7a4bb0", "#a0700a", "#555555", "#d0609a", "#20a0a0", "#8a8a20")
TICKS: Final = 6  # about so many on an axis
DECADE_TICKS: Final = tuple(factor * 10**power for power in range(5) for factor in (1, 2, 5))


@dataclass(frozen=True)
class Line:
    """One curve. dashed: a theoretical one; marks: points without a line."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    marks: bool = False


def write_chart(
    path: Path, title: str, x_name: str, y_name: str, lines: Sequence[Line], *, logarithmic: bool = True, mark_size: int = 4
) -> Path:
    """Draw curves over a logarithmic or linear x axis; the legend stands at the right."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=FONT)
    every = [point for line in lines for point in line.points]
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    x_low, x_high = (limit(scale(x) for x, _ in every) for limit in (min, max))
    step = _step(min(y for _, y in every), max(y for _, y in every))
    y_low, y_high = (step * way(limit(y for _, y in every) / step) for limit, way in ((min, math.floor), (max, math.ceil)))
    right, bottom = SIZE[0] - RIGHT, SIZE[1] - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (scale(x) - x_low) / max(x_high - x_low, 1e-9)
        return LEFT + across * (right - LEFT), bottom - (y - y_low) / max(y_high - y_low, 1e-9) * (bottom - TOP)

    draw.text((LEFT, 12), title, fill="black", font=font)
    draw.text((LEFT, SIZE[1] - 26), x_name, fill="black", font=font)
    draw.text((8, TOP - 28), y_name, fill="black", font=font)
    for index in range(round((y_high - y_low) / step) + 1):
        y = place(every[0][0], y_low + index * step)[1]
        draw.line((LEFT, y, right, y), fill="#dddddd")
        draw.text((LEFT - 10, y), f"{y_low + index * step:.6g}", fill="black", font=font, anchor="rm")
    for tick in DECADE_TICKS if logarithmic else _linear_ticks(x_low, x_high):
        if x_low - 1e-9 <= scale(tick) <= x_high + 1e-9:
            x, _ = place(tick, y_low)
            draw.line((x, TOP, x, bottom), fill="#eeeeee")
            draw.text((x, bottom + 6), f"{tick:.6g}", fill="black", font=font, anchor="ma")
    draw.rectangle((LEFT, TOP, right, bottom), outline="black")
    y = float(TOP + 12)
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        _draw(draw, [place(*point) for point in line.points], line, colour, mark_size)
        _draw(draw, [(right + 14.0, y), (right + 44.0, y)], line, colour, 4)
        draw.multiline_text((right + 52, y - 9), line.name, fill="black", font=font, spacing=2)
        y += 26.0 + 20.0 * line.name.count("\n")
    image.save(path, format="PNG")
    return path


def _step(low: float, high: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides the span into about TICKS parts."""
    rough = max(high - low, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power * (1 + 1e-9))


def _linear_ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], line: Line, colour: str, mark_size: int) -> None:
    if not line.marks:
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            dashes = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6)) if line.dashed else 1
            for dash in range(0, dashes, 2):
                near, far = dash / dashes, min(1.0, (dash + 1) / dashes)
                ends = (x0 + near * (x1 - x0), y0 + near * (y1 - y0), x0 + far * (x1 - x0), y0 + far * (y1 - y0))
                draw.line(ends, fill=colour, width=2)
    if not line.dashed:
        for x, y in points:
            draw.ellipse((x - mark_size, y - mark_size, x + mark_size, y + mark_size), fill=colour)
