"""DnCNN, the network that denoisers are compared with (Zhang, Zuo, Chen, Meng, Zhang: Beyond a Gaussian Denoiser, IEEE TIP 2017).

Described by the layers of `protocols.network`, so it is trained, counted and measured by the same code as ours. Without batch
normalisation, which at inference is folded into the convolutions; and told the noise level in a second input channel, as
FFDNet is, so that it competes on the same information.
"""

from dataclasses import dataclass
from typing import Final

from protocols.errors import ConfigurationError
from protocols.layers import Add, Concat, Conv, Layer, Relu, SigmaMap
from protocols.network import IMAGE_WIRE, Network

WEIGHT_FRAC_BITS: Final = 12
MIN_DEPTH: Final = 3


@dataclass(frozen=True)
class DncnnShape:
    """depth: number of convolutions; 17 with 64 channels is the published DnCNN-S."""

    channels: int = 64
    depth: int = 17

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 256 and MIN_DEPTH <= self.depth <= 64):
            raise ConfigurationError(f"[network] {self}: channels must be in 1..256, depth in 3..64; correct the configuration")

    def network(self) -> Network:
        """The description: 3x3 convolutions and ReLUs at full resolution, whose output corrects the image."""
        layers: list[Layer] = [
            SigmaMap("sigma", IMAGE_WIRE),
            Concat("entry", IMAGE_WIRE, "sigma"),
        ]
        last = "entry"
        for index in range(1, self.depth):
            layers += [
                Conv(f"conv{index}", last, self.channels, kernel=3, padding=1),
                Relu(f"relu{index}", f"conv{index}"),
            ]
            last = f"relu{index}"
        layers += [Conv("exit.project", last, 1, kernel=3, padding=1), Add("output", IMAGE_WIRE, "exit.project")]
        return Network(tuple(layers), weight_frac_bits=WEIGHT_FRAC_BITS)
