"""The demo's picture: labelled panels side by side, so that a person sees what each party sees."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from client.files import replacing
from protocols import ring

COLUMNS: Final = 3
MARGIN: Final = 12
LABEL_HEIGHT: Final = 44  # two lines of text
FONT_SIZE: Final = 15
MIN_PANEL: Final = 300  # narrower panels are enlarged by a whole factor, or the labels would not fit
TAIL: Final = 0.5  # per cent of the truth's pixels that are shown as plain black or white, on either side


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture with its label: who sees it, and what it is."""

    title: str
    caption: str
    grey: NDArray[np.uint8]


@dataclass(frozen=True)
class GreyScale:
    """Which pixel values are black and white: the same for every panel, or noise would look like contrast."""

    low: float
    high: float

    @classmethod
    def of(cls, truth: Float64[Tensor, "h w"]) -> "GreyScale":
        low, high = (float(level) for level in np.percentile(truth.numpy(), [TAIL, 100.0 - TAIL]))
        return cls(low, max(high, low + 1e-6))

    def show(self, pixels: Float64[Tensor, "h w"]) -> NDArray[np.uint8]:
        """Pixels as 8-bit grey levels."""
        scaled = (pixels.double().numpy() - self.low) / (self.high - self.low)
        grey: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
        return grey


def show_words(words: Int64[Tensor, "h w"]) -> NDArray[np.uint8]:
    """The high byte of each ring word: all that a picture of 64-bit words can show."""
    buffer = np.frombuffer(ring.to_bytes(words), dtype=np.uint8)
    return buffer.reshape(*words.shape, ring.WORD_BYTES)[..., -1].copy()


def write_picture(path: Path, panels: list[Panel]) -> None:
    """Write a PNG with the panels in rows of three, all of one size. Raises ConfigurationError: it cannot be written."""
    height, width = panels[0].grey.shape
    factor = max(1, -(-MIN_PANEL // width))
    cell = (width * factor + MARGIN, height * factor + LABEL_HEIGHT + MARGIN)
    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN), color=255)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=FONT_SIZE)
    for index, panel in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        left, top = MARGIN + column * cell[0], MARGIN + row * cell[1]
        draw.text((left, top), f"{panel.title}\n{panel.caption}", fill=0, font=font, spacing=3)
        picture = Image.fromarray(panel.grey).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top + LABEL_HEIGHT))
    with replacing(path) as file:
        sheet.save(file, format="PNG")
