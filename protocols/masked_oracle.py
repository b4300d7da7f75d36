"""What the masked engine computes, on plaintext words: each wire in its own format, truncation as the caller says.

With `exact_carries` it is the engine's result bit for bit, given the masks; with `floor` it is that up to the carries.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.layers import AvgPool, Layer
from protocols.linear_steps import linear_step, pool_sum
from protocols.lowering import WireUses
from protocols.masked_dealing import operands
from protocols.masked_plan import SIGMA_WIRE, ConvItem, InputItem, MaskedPlan, ProductItem, ReluItem, ScaleItem, WireItem
from protocols.network import IMAGE_WIRE

Truncate = Callable[[WireItem, Tensor], Tensor]


def floor(item: WireItem, product: Tensor) -> Tensor:
    """Rounds down."""
    return product >> item.shift


def exact_carries(masks: Mapping[str, Tensor]) -> Truncate:
    """Rounds as the engine does under these masks r, by layer, before their own truncation."""

    def truncate(item: WireItem, product: Tensor) -> Tensor:
        mask = masks[item.layer]
        return ((product + mask) >> item.shift) - (mask >> item.shift)

    return truncate


def masked_oracle(
    plan: MaskedPlan, weights: Mapping[str, Tensor], image: Int64[Tensor, "1 h w"], sigma: Tensor, truncate: Truncate = floor
) -> Int64[Tensor, "c h_out w_out"]:
    """Run the network. weights: `.weight` at weight_frac_bits, biases at FRAC_BITS. sigma: one word, shape (1, 1, 1)."""
    layers, uses = plan.lowered.by_name, WireUses(plan.lowered.layers)
    inputs = {IMAGE_WIRE: image, SIGMA_WIRE: sigma}
    wires: dict[str, Tensor] = {}
    for level in plan.levels:
        for item in level.items:
            if isinstance(item, InputItem):
                wires[item.layer] = plan.extended(item, inputs[item.layer])
                continue
            layer = layers[item.layer]
            sources = [wires[source] for source in layer.sources]
            if isinstance(item, WireItem):
                wires[item.layer] = truncate(item, _product(item, layer, sources, weights))
            elif isinstance(item, ReluItem):
                wires[item.layer] = sources[0].clamp(min=0)
            else:
                continue  # an earlier step of a ReLU
            uses.read(layer, wires)
        for layer in level.layers:
            sources = [wires[source] for source in layer.sources]
            wires[layer.out] = linear_step(layer, sources, wires.get(SIGMA_WIRE), plan.lowered.formats, constants=True)
            uses.read(layer, wires)
    return plan.output(wires[plan.lowered.output])


def _product(item: WireItem, layer: Layer, sources: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """The wire before truncation."""
    match item:
        case ConvItem():
            product = ring.conv2d(item.source(sources[0]), weights[item.weight].view(item.weight_shape), item.geometry)
            return product + (weights[item.bias] << item.bias_shift).view(-1, 1, 1) if item.bias else product
        case ProductItem():
            left, right = operands(layer, sources)
            return left * right
        case ScaleItem():
            x = pool_sum(sources[0], layer) if isinstance(layer, AvgPool) else sources[0]
            return x * item.multiplier
    raise AssertionError(f"no product of {item}")  # an item type was added without this case
