"""A small network with every layer that the masked engine evaluates, and what a test knows of a run that no server knows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from protocols import ring
from protocols.layers import (
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    Gate,
    Layer,
    Linear,
    MaxPool,
    PixelShuffle,
    PixelUnshuffle,
    Product,
    Relu,
    Scale,
    SigmaMap,
)
from protocols.linear_steps import linear_step
from protocols.masked_dealing import Stream
from protocols.masked_evaluation import row_blocks
from protocols.masked_oracle import exact_carries, masked_oracle
from protocols.masked_plan import (
    SIGMA_WIRE,
    ConvItem,
    InputItem,
    Item,
    MaskedPlan,
    ProductItem,
    ReluBitsItem,
    ReluItem,
    ReluSignItem,
    WireItem,
)
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.prg import Prg
from tests.protocols.joined_parties import Joined

RANGES = {  # every wire that is truncated has a format of its own, so that no two that meet have the same
    "attended": WireRange(13, 4),
    "attention": WireRange(18, 3),
    "average": WireRange(19, 3),
    "cross": WireRange(15, 6),
    "depthwise": WireRange(13, 4),
    "expand": WireRange(17, 5),
    "gate": WireRange(20, 4),
    "half": WireRange(12, 3),
    "mean": WireRange(14, 4),
    "mix": WireRange(11, 4),
    "scaled": WireRange(9, 5),
    "square": WireRange(18, 6),
    "thirds": WireRange(16, 4),
    "third_means": WireRange(10, 4),
    "weighted": WireRange(16, 7),
    "widen": WireRange(17, 4),
}


def covered_layers(*, conditioned: bool = True, ranges: Mapping[str, WireRange] = RANGES, thirds: bool = True) -> Network:
    """thirds: with the pooling windows whose reciprocal is rounded, which other oracles divide exactly by."""
    layers: list[Layer] = [PixelUnshuffle("folded", IMAGE_WIRE, 2)]
    if conditioned:
        layers += [SigmaMap("sigma", "folded"), Concat("entry", "folded", "sigma")]
    layers += [
        Conv("widen", "entry" if conditioned else "folded", 8, kernel=3, padding=1),
        Conv("depthwise", "widen", 8, kernel=3, padding=2, dilation=2, groups=8),
        Gate("gate", "depthwise"),
        AvgPool("mean", "gate", 0),
        Linear("attention", "mean", 4),
        Product("attended", "gate", "attention"),
        Conv("half", "attended", 6, kernel=3, stride=2, padding=1, groups=2, bias=False),
        Relu("rectified", "half"),
        AvgPool("average", "attended", 2),
        MaxPool("largest", "attended", 2),
        Concat("either", "rectified", "largest"),
        Concat("both", "either", "average"),
        Conv("mix", "both", 4, kernel=1),
        Clamp("limited", "mix", -0.625, 0.75 + 2.0**-14),  # on a finer grid than the wire's
        Add("sum", "limited", "average"),
        Product("square", "sum", "sum"),
        Product("cross", "square", "mix"),
        Scale("scaled", "cross", -0.375),
    ]
    if thirds:
        layers += [AvgPool("thirds", "gate", 3), MaxPool("odd", "thirds", 0), AvgPool("third_means", "thirds", 0)]
        layers += [Add("third", "third_means", "odd")]
    layers += [
        Product("weighted", "scaled", "third" if thirds else "mean"),
        Conv("expand", "weighted", 16, kernel=1),
        PixelShuffle("residual", "expand", 4),
        Add("output", IMAGE_WIRE, "residual"),
    ]
    written = {layer.out for layer in layers}
    named = tuple(sorted((name, wire) for name, wire in ranges.items() if name in written))
    return Network(tuple(layers), multiple=4, weight_frac_bits=12, ranges=named)


def name_of(item: Item) -> str:
    """A name for everything that is opened: the wire's, and for the steps of a ReLU what they open."""
    return item.layer + {ReluBitsItem: "/bits", ReluSignItem: "/sign"}.get(type(item), "")


def items_of(plan: MaskedPlan) -> dict[str, Item]:
    """Everything that is opened, by name, in order."""
    return {name_of(item): item for item in plan.items}


def is_bits(item: Item) -> bool:
    """Whether it is opened by XOR."""
    return isinstance(item, ReluBitsItem | ReluSignItem)


def full_masks(joined: Joined) -> dict[str, Tensor]:
    """The mask r of everything that is opened, before its own truncation, from both seeds and the weights' masks.

    Written from the equations in the docstring of protocols.masked_dealing and not with its functions.
    """
    plan, layers = joined.plan, joined.plan.lowered.by_name
    full: dict[str, Tensor] = {}
    wires: dict[str, Tensor] = {}  # the masks of all wires, after truncation
    for level in plan.levels:
        for item in level.items:
            a, b = (Prg(seed).words(item.number, Stream.OPENING, item.shape) for seed in joined.seeds.values())
            mask = a ^ b if is_bits(item) else a + b
            match item:
                case ConvItem():
                    source = wires[layers[item.layer].sources[0]]
                    source = source.reshape(-1, 1, 1) if isinstance(layers[item.layer], Linear) else source
                    mask = mask + ring.conv2d(source, joined.weight_masks[item.weight].view(item.weight_shape), item.geometry)
                case ProductItem():
                    sources = [wires[name] for name in layers[item.layer].sources]
                    left, right = sources if len(sources) == 2 else (sources[0].chunk(2)[0], sources[0].chunk(2)[1])
                    mask = mask - left * right
            full[name_of(item)] = mask
            match item:
                case InputItem():
                    wires[item.layer] = plan.extended(item, mask)
                case WireItem():
                    wires[item.layer] = mask >> item.shift
                case ReluItem():
                    wires[item.layer] = mask
        for layer in level.layers:
            sources = [wires[name] for name in layer.sources]
            wires[layer.out] = linear_step(layer, sources, wires.get(SIGMA_WIRE), plan.lowered.formats, constants=False)
    return full


def opened_wires(joined: Joined) -> dict[str, Tensor]:
    """What both servers saw of each wire, before truncation: its blocks put together."""
    out = {}
    messages = zip(joined.plan.levels, *joined.sent.values(), strict=True)
    for level, first, second in messages:
        blocks = iter(zip(first, second, strict=True))
        for item in level.items:
            pairs = [next(blocks) for _ in row_blocks(item)]
            out[name_of(item)] = torch.cat([a ^ b if is_bits(item) else a + b for a, b in pairs], dim=1)
        assert next(blocks, None) is None
    return out


def oracle_of(joined: Joined, encoded: dict[str, Tensor], image: Tensor, sigma: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The exact result given the masks, and every truncated wire before its truncation."""
    products: dict[str, Tensor] = {}
    carries = exact_carries(full_masks(joined))

    def recorded(item: WireItem, product: Tensor) -> Tensor:
        products[item.layer] = product
        return carries(item, product)

    return masked_oracle(joined.plan, encoded, image, torch.full((1, 1, 1), sigma), recorded), products
