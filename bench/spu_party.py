"""One party of SPU (SecretFlow) on its own runtime and its own brpc link, run by an interpreter that has `spu`, and not ours.

Started by bench.spu_peer with the path of a JSON file (rank, addresses, protocol, network, weights) and that of its log. The
first line on standard input, {"prepare": IMAGE}, has the network compiled for that size; each further one, {"image": PATH,
"sigma": S, "expected": PATH}, is an evaluation. Every answer is a JSON line; the error is party 0's to tell. Imports nothing of
Darkroom: the network is rebuilt in JAX from its JSON description. Image and weights are secret, as they are in the other engines.
"""

import json
import os
import re
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
import spu
from jax import lax
from spu import libspu
from spu.utils import frontend

FRAC_BITS: Final = 16  # as ours; SPU's own default for 64 bits is 18
RECEIVE_MS: Final = 900_000
LINK = re.compile(rb"Link details: total send bytes (\d+), recv bytes (\d+), send actions (\d+)")


def network_function(network: dict[str, Any]) -> Any:
    """A JAX function of (image (h, w), sigma (1,), *weights in the order of `parameter_names`), NHWC inside."""
    names = parameter_names(network)
    multiple = network["multiple"]

    def evaluate(image: Any, sigma: Any, *weights: Any) -> Any:
        values = dict(zip(names, weights, strict=True))
        height, width = image.shape
        padded = jnp.pad(image, ((0, -height % multiple), (0, -width % multiple)), mode="edge")
        wires = {"image": padded[None, :, :, None]}
        for layer in network["layers"]:
            wires[layer["out"]] = step(layer, wires, values, sigma)
        return wires[network["layers"][-1]["out"]][0, :height, :width, 0]

    return evaluate


def parameter_names(network: dict[str, Any]) -> list[str]:
    """Weights and biases of the convolutions, in order."""
    names = []
    for layer in network["layers"]:
        if layer["op"] == "conv":
            names += [f"{layer['out']}.weight"] + ([f"{layer['out']}.bias"] if layer["bias"] else [])
    return names


def step(layer: dict[str, Any], wires: dict[str, Any], values: dict[str, Any], sigma: Any) -> Any:
    """One layer."""
    kind = layer["op"]
    x = wires[layer["left"] if "left" in layer else layer["source"]]
    if kind == "conv":
        return convolution(layer, x, values)
    if kind == "relu":
        return jnp.maximum(x, 0)
    if kind == "gate":
        left, right = jnp.split(x, 2, axis=-1)
        return left * right
    if kind == "product":
        return x * wires[layer["right"]]
    if kind == "add":
        return x + wires[layer["right"]]
    if kind == "concat":
        return jnp.concatenate([x, wires[layer["right"]]], axis=-1)
    if kind == "scale":
        return x * layer["factor"]
    if kind == "sigma_map":
        return jnp.broadcast_to(sigma.reshape(1, 1, 1, 1), (*x.shape[:3], 1))
    if kind in ("pixel_unshuffle", "pixel_shuffle"):
        return shuffle(x, layer["factor"], back=kind == "pixel_shuffle")
    raise SystemExit(f"SPU's party knows no layer {kind!r}")


def convolution(layer: dict[str, Any], x: Any, values: dict[str, Any]) -> Any:
    """A convolution; SPU's compiler takes a grouped one apart by itself."""
    weight = values[f"{layer['out']}.weight"]  # (out, in / groups, kernel, kernel)
    out = lax.conv_general_dilated(
        x,
        jnp.transpose(weight, (2, 3, 1, 0)),
        (layer["stride"],) * 2,
        [(layer["padding"],) * 2] * 2,
        rhs_dilation=(layer["dilation"],) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=layer["groups"],
    )
    return out + values[f"{layer['out']}.bias"] if layer["bias"] else out


def shuffle(x: Any, factor: int, *, back: bool) -> Any:
    """PyTorch's pixel shuffle, or unshuffle, in NHWC."""
    n, height, width, channels = x.shape
    if back:
        split = x.reshape(n, height, width, channels // factor**2, factor, factor)
        return split.transpose(0, 1, 4, 2, 5, 3).reshape(n, height * factor, width * factor, channels // factor**2)
    split = x.reshape(n, height // factor, factor, width // factor, factor, channels)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(n, height // factor, width // factor, channels * factor**2)


def configuration(protocol: str) -> Any:
    """SPU's defaults, but our fractional bits, one thread, and a profile in the log: only there are the link's counters shown."""
    config = libspu.RuntimeConfig(protocol=spu.parse_protocol_kind(protocol), field=libspu.FieldType.FM64)
    config.fxp_fraction_bits = FRAC_BITS
    config.max_concurrency = 1
    config.enable_pphlo_profile = True
    return config


class Party:
    """This party: the link, the runtime, and what is compiled for one size."""

    def __init__(self, settings: dict[str, Any], log: str) -> None:
        self.rank: int = settings["rank"]
        self._log = log
        description = libspu.link.Desc()
        description.recv_timeout_ms = RECEIVE_MS
        description.http_timeout_ms = RECEIVE_MS
        for index, address in enumerate(settings["addresses"]):
            description.add_party(f"party{index}", address)
        self._link = libspu.link.create_brpc(description, self.rank)
        config = configuration(settings["protocol"])
        self._io = spu.Io(2, config)
        self._runtime = spu.Runtime(self._link, config)
        self._network = settings["network"]
        self._weights = np.load(settings["weights"], allow_pickle=False)
        self._names = parameter_names(self._network)
        self._executable: Any = None
        for name in self._names:
            self._share(name, self._weights[name])

    def _share(self, name: str, array: Any) -> None:
        """Party 0 makes the shares, and sends the other party its own."""
        if self.rank == 0:
            mine, theirs = self._io.make_shares(np.asarray(array, dtype=np.float32), libspu.Visibility.VIS_SECRET)
            self._send([theirs.meta, *theirs.share_chunks])
            self._runtime.set_var(name, mine)
        else:
            self._runtime.set_var(name, self._received())

    def _send(self, parts: list[bytes]) -> None:
        self._link.send(1 - self.rank, str(len(parts)))
        for part in parts:
            self._link.send(1 - self.rank, bytes(part))

    def _received(self) -> Any:
        count = int(self._link.recv(1 - self.rank))
        parts = [bytes(self._link.recv(1 - self.rank)) for _ in range(count)]
        share = libspu.Share()
        share.meta, share.share_chunks = parts[0], parts[1:]
        return share

    def compile(self, image: Any) -> None:
        """Trace and compile for the size of this image, not timed."""
        arguments = [image, np.zeros(1, np.float32), *(self._weights[name].astype(np.float32) for name in self._names)]
        self._executable, _ = frontend.compile(
            frontend.Kind.JAX,
            network_function(self._network),
            arguments,
            {},
            ["image", "sigma", *self._names],
            [libspu.Visibility.VIS_SECRET] * len(arguments),
            lambda outputs: [f"out{index}" for index in range(len(outputs))],
        )

    def evaluate(self, image: Any, sigma: float) -> tuple[dict[str, float], Any]:
        """One evaluation: seconds from shares of the image to shares of the result, and with sharing and opening around it."""
        self._link.barrier()
        begun = perf_counter()
        self._share("image", image)
        self._share("sigma", np.asarray([sigma], np.float32))
        self._link.barrier()
        mark = os.path.getsize(self._log)
        started = perf_counter()
        self._runtime.run(self._executable)
        online = perf_counter() - started
        out = self._runtime.get_var("out0")
        opened = None
        if self.rank == 0:
            opened = self._io.reconstruct([out, self._received()])
        else:
            self._send([out.meta, *out.share_chunks])
        whole = perf_counter() - begun
        with open(self._log, "rb") as file:
            file.seek(mark)
            counted = LINK.findall(file.read())
        if not counted:
            raise SystemExit("SPU's log shows no link counters; has its format changed?")
        sent, _, sends = counted[-1]
        return {"online_seconds": online, "whole_seconds": whole, "sent_bytes": int(sent), "rounds": int(sends)}, opened


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    log = sys.argv[2]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)  # SPU logs there
    os.dup2(descriptor, 2)
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    party = Party(settings, log)
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            party.compile(np.load(request["prepare"], allow_pickle=False).astype(np.float32))
            print(json.dumps({"ready": True}), file=answers, flush=True)
            continue
        image = np.load(request["image"], allow_pickle=False).astype(np.float32)
        figures, opened = party.evaluate(image, request["sigma"])
        status = Path("/proc/self/status").read_text()  # as proto.peak_memory, which is not in SPU's environment
        figures["peak_rss_bytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
        if opened is not None:
            expected = np.load(request["expected"], allow_pickle=False)
            figures["max_abs_diff"] = float(np.abs(opened - expected).max())
        print(json.dumps(figures), file=answers, flush=True)
    os._exit(0)  # brpc's threads outlast the interpreter


if __name__ == "__main__":
    main()
