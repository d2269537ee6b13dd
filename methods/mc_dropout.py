"""Monte-Carlo dropout: one trained network, and a random mask over its units for every draw.

Source: Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.training import (
    Count,
    Loss,
    Method,
    Minibatches,
    NotNegative,
    Positive,
    Recorded,
    Row,
    Share,
    Split,
    Step,
    Streams,
    adam,
    annealed,
    initial,
    means,
    minimise,
    settings,
    summed,
)


@settings
class MCDropoutConfig:
    """Settings of MC dropout."""

    p: Share = 0.5  # share dropped [HyperGAN paper, section 4]
    epochs: Count = 100  # passes over the data [HyperGAN paper, section 4.1]
    batch: Count = 100  # images per step [as the MNF and APD code]
    lr: Positive = 1e-3  # annealed by a cosine [Adam's default, the HyperGAN code on MNIST]
    # Times weights, added to the gradient. Gal's prior N(0, 1 / l^2) on weights is a decay of
    # (1 - p) l^2 / N beside the mean loss (equation 7, tau = 1): 9e-6 l^2 for p = 0.5 and N = 55,000, so that
    # 1e-4 stands for l = 3.3 [dropout script of the HyperGAN code].
    weight_decay: NotNegative = 1e-4


class MCDropout(Method):
    """One network trained with dropout; a draw keeps one mask, folded into the weights.

    Before every layer with weights but the first, h -> h * z / (1 - p) with z ~ Bernoulli(1 - p): per
    channel before a convolution, per unit before a linear layer. In training every image has its own
    mask; a drawn network has one for all images, as scaled columns of its weights:
    W (h * s) = (W * s) h. Only pooling, flattening and ReLU-like activations may lie between a mask
    and its layer, which scaling by s >= 0 passes through.

    Differs from the paper's code: whole channels are dropped before a convolution, in training as in
    drawing (there single activations), because only so is one mask one network; no mask on the input;
    the HyperGAN code put dropout on another network than its other methods'.
    """

    Config = MCDropoutConfig
    config: MCDropoutConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss = rng, loss
        values = initial(self.engine.shapes, rng("initialise"))
        holder = nn.ParameterList(nn.Parameter(w.to(self.device)) for w in values.values())
        self.weights = dict(zip(values, holder, strict=True))
        self.keep("weights", holder)
        self.optimiser = adam(holder.parameters(), c.lr, weight_decay=c.weight_decay)
        self.keep("optimiser", self.optimiser)
        self.batches = Minibatches(train, c.batch)
        self.noise = torch.Generator(self.device)  # there, so that a step can be recorded
        self.recorded = Recorded(self.device, [self.noise])

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch, a fresh mask for every image of every step."""
        self.noise.manual_seed(self.rng("masks", i).initial_seed())
        (loss,) = means(self.recorded.run(self._step, self._rows(i)).double())
        return {"loss": loss}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images and rates of the steps of epoch i."""
        c, steps = self.config, len(self.batches)
        for step, row in enumerate(self.batches.rows(self.rng("order", i), own=False), i * steps):
            yield {**row, "lr": annealed(c.lr, step, c.epochs * steps)}

    def _step(self, row: Row) -> tuple[Tensor]:
        x, y = self.batches.read(row)
        masks = self.masks(len(x), self.noise)

        def piece(images: slice) -> tuple[Tensor, tuple[()]]:
            part = {layer: mask[images] for layer, mask in masks.items()}
            share = (images.stop - images.start) / len(x)
            return self.loss(self.logits(x[images], part)[None], y[images]).mean() * share, ()

        loss, _ = summed(piece, self.engine.blocks(x), list(self.weights.values()))
        minimise(self.optimiser, loss, row["lr"])
        return (loss,)

    def logits(self, x: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, K] of images x [B, ...], each under its own mask: [B, inputs] by layer."""

        def drop(step: Step, h: Tensor) -> Tensor:
            scale = masks.get(step.name)
            return h if scale is None else h * scale.view(*scale.shape, *[1] * (h.dim() - 2))

        return self.engine.single(self.weights, x, before=drop)

    def masks(self, images: int, rng: torch.Generator) -> dict[str, Tensor]:
        """A mask for each image, [B, inputs] by layer."""
        inputs = {layer: self.weights[f"{layer}.weight"].shape[1] for layer in self._masked()}
        return {layer: self._mask(torch.Size([images, count]), rng) for layer, count in inputs.items()}

    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        drawn = {name: w.detach().expand(len(rngs), *w.shape) for name, w in self.weights.items()}
        for layer in self._masked():
            weight = drawn[f"{layer}.weight"]  # [M, outputs, inputs, ...]
            scale = torch.stack([self._mask(weight.shape[2:3], rng) for rng in rngs])
            drawn[f"{layer}.weight"] = weight * scale.view(len(rngs), 1, -1, *[1] * (weight.dim() - 3))
        return drawn

    def _masked(self) -> list[str]:
        """Names of the layers that a mask lies before: all with weights but the first."""
        return [step.name for step in self.engine.known_steps() if step.has_weights][1:]

    def _mask(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Kept units as 1 / (1 - p), dropped ones as 0."""
        kept = torch.rand(shape, generator=rng, device=rng.device) >= self.config.p
        return (kept / (1 - self.config.p)).to(self.device)
