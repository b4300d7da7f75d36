"""The float evaluation against torch's own modules; it is differentiable, and evaluates a batch image by image."""

import torch
from torch import nn

from protocols.float_evaluation import evaluate_float
from protocols.layers import AvgPool, Clamp, Conv, Gate, Linear, MaxPool, PixelUnshuffle, Scale
from protocols.network import IMAGE_WIRE, Network
from tests.protocols.every_layer import EVERY_LAYER, image_of, weights_of

X = IMAGE_WIRE
SIGMAS = torch.tensor([0.1, 0.3])


def weights() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in weights_of(EVERY_LAYER).items()}


def images(height=9, width=11):
    return torch.stack([image_of(height, width, seed) for seed in (1, 2)]).float()


def test_a_chain_of_modules():
    torch.manual_seed(0)
    first = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
    second = nn.Linear(3 * 2 * 2, 5)
    network = Network(
        (
            PixelUnshuffle("u", X, 2),
            Conv("c", "u", 6, 3, stride=2, padding=2, dilation=2, groups=2),
            Gate("g", "c"),
            Scale("s", "g", -1.5),
            MaxPool("m", "s", 2),
            AvgPool("a", "m", 2),
            Linear("l", "a", 5),
        )
    )
    parameters = {"c.weight": first.weight, "c.bias": first.bias, "l.weight": torch.zeros(5, 192), "l.bias": second.bias}
    batch = torch.randn(2, 1, 32, 32)
    left, right = first(nn.PixelUnshuffle(2)(batch)).chunk(2, 1)
    pooled = nn.AvgPool2d(2)(nn.MaxPool2d(2)(left * right * -1.5))
    parameters["l.weight"] = second.weight
    assert torch.allclose(evaluate_float(network, parameters, batch, SIGMAS)[..., 0, 0], second(pooled.flatten(1)), atol=1e-6)


def test_a_clamp_holds_both_bounds():
    batch = torch.linspace(-2, 3, 64).view(1, 1, 8, 8)
    out = evaluate_float(Network((Clamp("c", X, -0.25, 0.5),)), {}, batch, SIGMAS[:1])
    assert torch.equal(out, nn.Hardtanh(-0.25, 0.5)(batch))
    assert (float(out.min()), float(out.max())) == (-0.25, 0.5)


def test_images_of_a_batch_do_not_mix():
    together = evaluate_float(EVERY_LAYER, weights(), images(), SIGMAS)
    apart = [evaluate_float(EVERY_LAYER, weights(), images()[i : i + 1], SIGMAS[i : i + 1]) for i in range(2)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)


def test_sigma_is_read():
    low, high = (evaluate_float(EVERY_LAYER, weights(), images(), sigma.expand(2)) for sigma in SIGMAS)
    assert not torch.allclose(low, high, atol=1e-4)


def test_every_weight_has_a_gradient():
    leaves = {name: tensor.requires_grad_() for name, tensor in weights().items()}
    evaluate_float(EVERY_LAYER, leaves, images(), SIGMAS).square().sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is None or not leaf.grad.abs().sum()] == []


def test_a_padded_image_is_the_extended_image():
    image = images(8, 8)
    wide = torch.cat([image, image[..., -1:].expand(-1, -1, -1, 4)], dim=3)
    narrow = evaluate_float(EVERY_LAYER, weights(), wide[..., :9], SIGMAS)
    assert torch.allclose(narrow, evaluate_float(EVERY_LAYER, weights(), wide, SIGMAS)[..., :9], atol=1e-6)
