"""A DnCNN's state dict becomes a description that gives what torch gives, in both layouts; everything else is refused."""

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.dncnn_file import TOLERANCE, WEIGHT_TOLERANCE, folded, import_dncnn
from client.model_file import load_model, model_bytes
from protocols import wire_ranges
from protocols.errors import BadInputError, NetworkDescriptionError
from protocols.fixed_point import decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.layers import Add, Conv, Relu
from tests.protocols.every_layer import encoded_weights, image_of
from tests.protocols.joined_parties import run_parties

CHANNELS = 8


class Reference(nn.Module):
    """The published network: predicts the noise. prefix: the attribute that holds its layers."""

    def __init__(self, depth: int, prefix: str, *, norm: bool, bias: bool, eps: float, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, CHANNELS, 3, padding=1, bias=bias), nn.ReLU()]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=bias))
            layers += [nn.BatchNorm2d(CHANNELS, eps=eps)] if norm else []
            layers.append(nn.ReLU())
        layers.append(nn.Conv2d(CHANNELS, 1, 3, padding=1, bias=bias))
        setattr(self, prefix, nn.Sequential(*layers))
        self.prefix = prefix

    def forward(self, x: Tensor) -> Tensor:
        return x - getattr(self, self.prefix)(x)


def reference(depth: int, layout: str, *, channels: int = 1) -> Reference:
    """With seeded weights and statistics such as training leaves."""
    kinds = {
        "saoyan": ("dncnn", True, False, 1e-5),
        "kair": ("model", True, True, 1e-4),
        "kair-merged": ("model", False, True, 1e-4),
    }
    prefix, norm, bias, eps = kinds[layout]
    model = Reference(depth, prefix, norm=norm, bias=bias, eps=eps, channels=channels)
    generator = torch.Generator().manual_seed(depth)
    for name, tensor in model.state_dict().items():
        if tensor.dtype != torch.int64:
            fan_in = math.prod(tensor.shape[1:]) if tensor.dim() == 4 else 16
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * fan_in**-0.5)
            if name.endswith("running_var"):
                tensor.abs_().mul_(1e-3)  # small: eps counts
            elif tensor.dim() == 1 and name.endswith(".weight"):
                tensor.mul_(0.05).add_(0.05)
    return model.eval()


def save(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_ranges, "SIDE", 16)


@pytest.mark.parametrize("layout", ["saoyan", "kair", "kair-merged"])
@pytest.mark.parametrize("depth", [3, 17, 20])
def test_it_gives_what_torch_gives(layout: str, depth: int) -> None:
    model = reference(depth, layout).double()
    network, weights = folded(model.state_dict(), "net.pth")
    assert [type(layer) for layer in network.layers] == [Conv, Relu] * (depth - 1) + [Conv, Add]
    assert not network.conditioned
    images = image_of(24, 19)[None]
    with torch.no_grad():
        expected = model(images)
        ours = evaluate_float(network, {name: w.double() for name, w in weights.items()}, images, torch.zeros(1))
    scale = float((expected - images).abs().max())
    assert scale > 1e-3
    assert float((ours - expected).abs().max()) < 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_parallel_or_wrapped_checkpoint_is_the_same(tmp_path: Path, wrap: bool) -> None:
    state = reference(3, "saoyan").state_dict()
    plain = import_dncnn(save(tmp_path / "plain.pth", state), np.random.default_rng(0))
    parallel = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    other = save(tmp_path / "other.pth", {"epoch": 3, "state_dict": parallel} if wrap else parallel)
    again = import_dncnn(other, np.random.default_rng(0))
    assert again.network == plain.network
    assert all(torch.equal(again.weights[name], weight) for name, weight in plain.weights.items())


@pytest.mark.parametrize("layout", ["saoyan", "kair-merged"])
def test_evaluated_on_shares_it_stays_within_the_tolerance(tmp_path: Path, layout: str) -> None:
    model = reference(3, layout).double()
    imported = import_dncnn(save(tmp_path / "net.pth", model.float().state_dict()), np.random.default_rng(0))
    file = tmp_path / "dncnn.safetensors"
    file.write_bytes(model_bytes(imported.network, imported.weights, bound=imported.bound))
    loaded = load_model(file)
    image = image_of(12, 9)
    run = run_parties(loaded.network, encoded_weights(loaded.network, loaded.weights), encode(image), 0, seed=bytes(32))
    exact = {name: weight.double() for name, weight in loaded.weights.items()}
    with torch.no_grad():
        original = model.double()(image[None])[0]
        rounded = evaluate_float(loaded.network, exact, image[None], torch.zeros(1))[0]
    assert float((decode(run.output) - rounded).abs().max()) < TOLERANCE
    assert float((rounded - original).abs().max()) < WEIGHT_TOLERANCE
    assert imported.ranged.error < TOLERANCE
    assert imported.weight_error < WEIGHT_TOLERANCE
    assert imported.ranged.expected_flags(128, 128) < 0.01


def changed(layout: str = "saoyan", **tensors: Tensor | None) -> dict[str, Tensor]:
    """A state dict with some entries replaced, or left out; names with _ for the dots."""
    state = dict(reference(4, layout).state_dict())
    for name, tensor in tensors.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        (changed(layers__0__weight=torch.zeros(1)), "found 'layers.0.weight'"),
        (changed(model__0__weight=torch.zeros(8, 1, 3, 3)), "names of both"),
        (
            changed(dncnn__0__weight=torch.zeros(8, 3, 3, 3)),
            r"3x3 convolution of one grey channel at place 0, found .*8, 3, 3, 3",
        ),
        (changed(dncnn__2__weight=torch.zeros(8, 8, 5, 5)), r"3x3 convolution of 8 channels at place 2"),
        (changed(dncnn__2__weight=None), "batch normalisation at place 3 follows no convolution"),
        (changed(dncnn__3__running_var=None), "running_var.* at place 3"),
        (changed(dncnn__8__weight=torch.zeros(8, 8, 3, 3)), "the last one to 8 channels"),
        (changed(dncnn__9__weight=torch.zeros(1, 1, 3, 3)), "expected the next convolution at place 10.*found one at 9"),
        (changed(dncnn__0__weight=torch.zeros(8, 1, 3, 3, dtype=torch.int64)), "finite real numbers"),
        (changed(dncnn__0__weight=torch.full((8, 1, 3, 3), math.nan)), "finite real numbers"),
        (changed(dncnn__3__running_var=torch.full((8,), -1.0)), "are all variances positive"),
        (changed("kair", model__0__bias=torch.zeros(7)), r"bias of shape \(7,\)"),
        ({name: t for name, t in changed("kair-merged").items() if name.startswith("model.0.")}, "at least 3 convolutions"),
    ],
)
def test_what_is_no_dncnn_is_refused(state: dict[str, Tensor], complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        folded(state, "net.pth")


def test_a_wire_that_runs_away_is_refused(tmp_path: Path) -> None:
    state = changed(dncnn__0__weight=torch.full((8, 1, 3, 3), 1e5))
    with pytest.raises(NetworkDescriptionError, match="conv1 reaches"):
        import_dncnn(save(tmp_path / "net.pth", state), np.random.default_rng(0))


class Harmful:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_no_code_of_the_file_is_run(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", {"dncnn.0.weight": Harmful(tmp_path / "harmed")})
    with pytest.raises(BadInputError, match="without running code") as refused:
        import_dncnn(file, np.random.default_rng(0))
    assert not (tmp_path / "harmed").exists()
    assert "weights_only" not in str(refused.value), "torch's own words advise running it"


@pytest.mark.parametrize("content", [b"no checkpoint", b"", b"PK\x03\x04", b"\x80\x02c__builtin__\nexec\n."])
def test_what_is_no_checkpoint_is_told_in_our_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(BadInputError, match=r"net\.pth is not a state dict.*with torch\.save") as refused:
        import_dncnn(tmp_path / "net.pth", np.random.default_rng(0))
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no state dict", bytes(100), b"PK\x03\x04" + bytes(50), b"\x80\x02}q\x00."])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(BadInputError, match=r"net\.pth"):
        import_dncnn(tmp_path / "net.pth", np.random.default_rng(0))


@pytest.mark.parametrize("content", [[1, 2], {"dncnn.0.weight": 3}, {}, {"model": torch.zeros(1)}, torch.zeros(2)])
def test_other_contents_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadInputError, match="expected a DnCNN"):
        import_dncnn(save(tmp_path / "net.pth", content), np.random.default_rng(0))
