"""Fitting: Muon and AdamW with warm-up, cosine decay, clipping and averaged weights; resumable at any step.

Products of activations make gated networks diverge where ReLU networks would not, so a step whose loss or gradient is
not finite, or far above the usual, is not taken; several in a row restore the last checkpoint at half the learning rate.
The penalty on hostile images gets a share of each step and no more: its gradient is scaled down to a part of the loss's, for each
weight apart. Added at a fixed strength it drowned the loss, whose gradient is a hundred times smaller, whatever the limit was.

A run is a function of its settings, the images and the machine's arithmetic: cut and resumed, it gives the same weights. Where
it is computed is no setting of it: patches are drawn on the CPU, and checkpoints lie there, so a run may change devices.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from protocols.errors import BadInputError, DarkroomError
from protocols.float_evaluation import evaluate_float
from protocols.layers import Conv
from protocols.network import Network
from training.architecture import initial_weights, on_grid
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.device import CPU, on_device
from training.hostile import HostileImages, climbed, draw_hostile, pressure
from training.images import Patches, Series, draw_patches
from training.offenders import drawn, find_offenders
from training.optimiser import Optimiser
from training.quality import measure_quality
from training.settings import FitSettings, Settings

LOSS_FLOOR: Final = 1e-6  # of the mean squared error: keeps the square root differentiable; 60 dB, beyond any result
MIDDLE_LEVEL: Final = 27.5 / 255  # has weight 1
LEAST_LEVEL: Final = 5 / 255  # keeps the weight of a patch without noise finite
TINY: Final = 1e-12  # instead of a norm of zero
USUAL_DECAY: Final = 0.99  # of the running loss that explosions are judged by
SETTLED_STEPS: Final = 200  # before these, the running loss says nothing
Log = Callable[[dict[str, Any]], None]


class TrainingDivergedError(DarkroomError):
    """Restoring and lowering the learning rate did not help."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where a run stands. finished: all steps were taken; otherwise its time is used up and it can be resumed."""

    network: Network
    checkpoint: Checkpoint
    finished: bool


def loss_of(network: Network, weights: dict[str, Tensor], patches: Patches, quiet_weight: float = 0.0) -> Tensor:
    """Mean over patches of the root mean squared error, each weighed by its level to the power of -quiet_weight.

    The root keeps the loudest patches, whose squared error is a hundred times larger, from drowning the others; errors still grow
    nearly as the level does, while figures of merit are in decibels at each level.
    """
    result = evaluate_float(network, weights, patches.noisy.contiguous(memory_format=torch.channels_last), patches.sigma)
    errors = ((result - patches.clean) ** 2).mean(dim=(1, 2, 3)).add(LOSS_FLOOR).sqrt()
    return (errors * ((MIDDLE_LEVEL + LEAST_LEVEL) / (patches.sigma + LEAST_LEVEL)) ** quiet_weight).mean()


def learning_rate(settings: FitSettings, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


class Fitting:
    """One run. `run` takes steps until they, the time, or the allowed divergences are used up."""

    def __init__(
        self,
        settings: Settings,
        training: list[Series],
        validation: list[Series],
        folder: Path,
        log: Log,
        device: torch.device = CPU,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """start: weights to begin with, in place of random ones; they are bound to the run, as its settings are.

        Raises BadInputError: the folder holds a checkpoint that is damaged, or of another run.
        """
        self.settings = settings
        self._device = device
        self.network = settings.build_network()
        self.pressed = _pressed(self.network)
        self._training = training
        self._validation = validation
        self._path = folder / "checkpoint.pt"
        self._log = log
        self._started = start is not None
        begun = initial_weights(self.network, settings.fit.seed) if start is None else start
        first = {name: weight.to(device, copy=True) for name, weight in begun.items()}
        self._weights = {name: weight.requires_grad_() for name, weight in first.items()}
        self._average = {name: weight.detach().clone() for name, weight in first.items()}
        self._optimiser = Optimiser(self._weights, settings.fit.learning_rate, settings.fit.weight_decay)
        self.state = Checkpoint.at_start(_fingerprint(settings, training, start or {}))
        if self._path.exists():
            self._resume()
        else:
            self._save()

    def run(self) -> Outcome:
        """Take steps. Raises TrainingDivergedError."""
        settings = self.settings.fit
        wall, cpu, bad = time.monotonic(), time.process_time(), 0
        while self.state.step < settings.steps and not self._used_up():
            bad = 0 if self._take_step() else bad + 1
            self.state.seconds += time.monotonic() - wall
            self.state.cpu_seconds += time.process_time() - cpu
            wall, cpu = time.monotonic(), time.process_time()
            if bad >= settings.bad_steps:
                self._restore()
                bad = 0
                continue
            step, last = self.state.step, self.state.step == settings.steps
            if step % settings.validate_every == 0 or last:
                self._validate()
            if step % settings.checkpoint_every == 0 or last:
                self._save()
        self._save()
        return Outcome(self.network, self.state, finished=self.state.step >= settings.steps)

    def _used_up(self) -> bool:
        settings, state = self.settings.fit, self.state
        limited = settings.cpu_minutes > 0 and state.cpu_seconds >= settings.cpu_minutes * 60
        return limited or state.seconds >= settings.minutes * 60

    def _take_step(self) -> bool:
        """One step of the optimiser; False if it was skipped because the loss or the gradient is unusable."""
        settings, state, chosen = self.settings.fit, self.state, self.settings
        rate = learning_rate(settings, state.step) * state.rate_scale
        patches = draw_patches(self._training, chosen.patches, chosen.noise, seed=settings.seed, step=state.step).to(self._device)
        with self._precision():
            loss = loss_of(self.network, self._weights, patches, settings.quiet_weight)
            press = self._press() if chosen.pressure.strength else torch.zeros(())
        norm = self._gradient(loss, press)
        value = loss.item()
        state.step += 1
        if not (math.isfinite(value) and math.isfinite(norm)) or value > settings.explosion_factor * state.usual_loss:
            state.skipped += 1
            self._log({"event": "skipped", "step": state.step, "loss": str(value), "gradient_norm": str(norm)})
            return False
        self._optimiser.step(rate)
        self._follow(value)
        if state.step % settings.log_every == 0:
            times = {"seconds": round(state.seconds, 1), "cpu_seconds": round(state.cpu_seconds, 1)}
            values = {"loss": value, "pressure": press.item(), "gradient_norm": norm, "rate": rate}
            if chosen.pressure.looked_at:
                values["offenders"] = len(state.offenders)
            self._log({"event": "step", "step": state.step} | values | times)
        return True

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.fit.precision == "bfloat16")

    def _press(self) -> Tensor:
        """The penalty on the hostile images of this step; 0 where it is not one of those that press."""
        chosen, state = self.settings.pressure, self.state
        if chosen.looked_at and state.step % chosen.look_every == 0:
            self._look()
        if (state.step + 1) % chosen.every:
            return torch.zeros(())
        hostile = self._hostile().to(self._device)
        if chosen.climb:
            hostile = climbed(self.network, self.pressed, self._weights, hostile, chosen.limit, chosen.climb)
        return pressure(self.network, self.pressed, self._weights, hostile, chosen.limit)

    def _look(self) -> None:
        """Bring the offenders up to date."""
        state, sigma_max, seed = self.state, self.settings.patches.sigma_max, self.settings.fit.seed
        found = (self.network, self.pressed, self._weights, self.settings.pressure, state.offenders)
        state.offenders = find_offenders(*found, sigma_max=sigma_max, seed=seed, step=state.step)

    def _hostile(self) -> HostileImages:
        """The images of a step, with the worst that were found in place of up to three in four of them."""
        chosen, state, seed = self.settings.pressure, self.state, self.settings.fit.seed
        sigma_max = self.settings.patches.sigma_max
        hostile = draw_hostile(chosen.batch, chosen.side, sigma_max, seed=seed, step=state.step)
        count = min(len(state.offenders), 3 * chosen.batch // 4)
        if not count:
            return hostile
        taken = [state.offenders[(state.step * count + index) % len(state.offenders)] for index in range(count)]
        worst = drawn(taken, chosen.side, sigma_max, seed=seed)
        return HostileImages(torch.cat([worst.images, hostile.images[count:]]), torch.cat([worst.sigma, hostile.sigma[count:]]))

    def _gradient(self, loss: Tensor, press: Tensor) -> float:
        """Leave every weight the gradient of the loss, clipped, with the penalty's share; the norm of the loss's before."""
        weights, chosen = list(self._weights.values()), self.settings.pressure
        own = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in own))
        pushes: Sequence[Tensor | None] = [None] * len(weights)
        if press.item() > 0:
            pushes = torch.autograd.grad(press, weights, allow_unused=True)
        scale = min(1.0, self.settings.fit.clip_norm / max(norm, TINY))
        for weight, gradient, push in zip(weights, own, pushes, strict=True):
            weight.grad = gradient * scale
            if push is not None:
                most = chosen.share * float(weight.grad.norm()) / max(float(push.norm()), TINY)
                weight.grad += push * min(chosen.strength, most)
        return norm

    def _follow(self, loss: float) -> None:
        """Update the averaged weights and the usual loss."""
        state = self.state
        decay = min(self.settings.fit.average_decay, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for name, weight in self._weights.items():
                self._average[name].lerp_(weight, 1 - decay)
        if state.step >= SETTLED_STEPS:
            first = math.isinf(state.usual_loss)
            state.usual_loss = loss if first else USUAL_DECAY * state.usual_loss + (1 - USUAL_DECAY) * loss

    def _validate(self) -> None:
        """Measure the averaged weights as they would be shipped, and keep them if they are the best."""
        shipped = on_grid(self.network, self._average)
        chosen = self.settings.validation
        quality = measure_quality(
            self.network, shipped, self._validation, chosen.sigma, slices=chosen.slices, seed=chosen.seed, ssim=False
        )
        best = quality.psnr_out_db > self.state.best_psnr_db
        if best:
            self.state.best_psnr_db = quality.psnr_out_db
            self.state.best = {name: weight.to(CPU, copy=True) for name, weight in self._average.items()}
        psnr = {"psnr_in_db": quality.psnr_in_db, "psnr_out_db": quality.psnr_out_db}
        self._log({"event": "validation", "step": self.state.step, "best": best} | psnr)

    def _save(self) -> None:
        self.state.weights = on_device({name: weight.detach() for name, weight in self._weights.items()}, CPU)
        self.state.average = on_device(self._average, CPU)
        self.state.optimiser = on_device(self._optimiser.state(), CPU)
        save_checkpoint(self._path, self.state)

    def _load(self) -> Checkpoint:
        """Copy weights and optimiser state from the checkpoint on disk to the device."""
        found = load_checkpoint(self._path)
        if found.fingerprint != self.state.fingerprint:
            why = f"belongs to other settings or images, or {self._other_start()}"
            raise BadInputError(f"{self._path} {why}; remove it, or choose another --run folder")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(found.weights[name])
        self._average = on_device(found.average, self._device)
        self._optimiser.load(found.optimiser)  # which moves it to where its weights are
        return found

    def _other_start(self) -> str:
        if self._started:
            return "began with other weights: --start names another run, or that run has gone on since, and this one cannot"
        return "began with weights of another run: --start must then be given again"

    def _resume(self) -> None:
        self.state = self._load()
        self._log({"event": "resumed", "step": self.state.step})

    def _restore(self) -> None:
        """Go back to the checkpoint with half the learning rate, forward in batches: the same ones need not explode again."""
        now = self.state
        if now.restores + 1 > self.settings.fit.max_restores:
            raise TrainingDivergedError(
                f"the loss exploded again at step {now.step} after {now.restores} restores; lower fit.learning_rate"
            )
        found = self._load()
        self.state = replace(
            found,
            restores=now.restores + 1,
            rate_scale=now.rate_scale / 2,
            step=now.step,
            skipped=now.skipped,
            seconds=now.seconds,
            cpu_seconds=now.cpu_seconds,
        )
        self._log({"event": "restored", "step": now.step, "from_step": found.step, "rate_scale": self.state.rate_scale})
        self._save()


def _pressed(network: Network) -> tuple[str, ...]:
    """The wires that pressure acts on: gates, sums and the correction. The other convolutions are linear in these."""
    last = next(layer for layer in reversed(network.layers) if isinstance(layer, Conv))
    output = network.layers[-1].out
    names = [layer.out for layer in network.layers if layer.op in ("gate", "product", "add") and layer.out != output]
    return (*names, last.out)


def _fingerprint(settings: Settings, training: list[Series], start: dict[str, Tensor]) -> str:
    """Binds a checkpoint to its settings, except the time allowed, to its images, and to the weights that it began with."""
    bound = replace(settings, fit=replace(settings.fit, minutes=0.0, cpu_minutes=0.0, threads=1))
    shapes = [(one.name, one.images.shape, one.low, one.high) for one in training]
    found = hashlib.sha256(json.dumps([repr(bound), shapes]).encode())
    for name in sorted(start):
        found.update(name.encode() + start[name].numpy().tobytes())
    return found.hexdigest()
