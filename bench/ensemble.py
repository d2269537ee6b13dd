"""Ensembles: one network architecture with stacked weights, and fused classifiers built on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bench.engine import Engine


class Ensemble(nn.Module):
    """M networks of one architecture; forward maps images [B, ...] to logits [M, B, K].

    Each member is a deterministic function; train and eval mode make no difference. The weights are
    parameters without gradient, because attack libraries find the device through parameters.

    network: the target network, without buffers. weights: by name [M, *shape].
    Raises ValueError if the weights do not fit the network.
    """

    def __init__(
        self, network: nn.Module, weights: Mapping[str, Tensor], engine: Engine | None = None
    ) -> None:
        super().__init__()
        self.engine = engine or Engine(network)
        self._names = list(self.engine.shapes)
        missing = [name for name in self._names if name not in weights]
        if missing or len(weights) != len(self._names):
            raise ValueError(f"expected weights named {self._names}, found {list(weights)}")
        self._values = nn.ParameterList(
            nn.Parameter(weights[name].detach(), requires_grad=False) for name in self._names
        )
        for name, shape in self.engine.shapes.items():
            found = list(self.weights[name].shape)
            if found != [len(self), *shape]:
                raise ValueError(f"{name}: expected {[len(self), *shape]}, found {found}")

    @property
    def weights(self) -> dict[str, Tensor]:
        """The stacked weights by name, [M, *shape]."""
        return dict(zip(self._names, self._values, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.engine.logits(self.weights, x)

    def __len__(self) -> int:
        return self._values[0].shape[0]

    def __getitem__(self, members: slice) -> Ensemble:
        part = {name: w[members] for name, w in self.weights.items()}
        return Ensemble(self.engine.network, part, self.engine)

    def vectors(self) -> Tensor:
        """All weights and biases of each member, [M, P]."""
        return torch.cat([w.flatten(1) for w in self._values], 1)

    def hashes(self) -> list[str]:
        """SHA-256 of each member's weights, to detect equal networks."""
        return [hashlib.sha256(v.numpy().tobytes()).hexdigest() for v in self.vectors().cpu()]

    @torch.no_grad()
    def logits(self, images: Tensor, batch: int = 1000) -> Tensor:
        """Logits [M, B, K] of every member, on the CPU, in batches."""
        return self._in_batches(images, batch, lambda logits: logits)

    @torch.no_grad()
    def probabilities(self, images: Tensor, batch: int = 1000) -> Tensor:
        """Class probabilities [M, B, K] of every member, on the CPU, in batches."""
        return self._in_batches(images, batch, lambda logits: logits.softmax(-1))

    def _in_batches(self, images: Tensor, batch: int, of: Callable[[Tensor], Tensor]) -> Tensor:
        device = self._values[0].device
        return torch.cat([of(self(x.to(device))).cpu() for x in images.split(batch)], 1)


class MeanLogits(nn.Module):
    """The ensemble as one classifier, [B, ...] -> mean logits [B, K]: the target of attacks.

    l(x) = sum_m l_m(x) / M. Source: HyperGAN paper, section 4.5, with uniform weights; the mean, not
    the sum, because the sum saturates the softmax and its gradients vanish in float32.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        return self.ensemble(x).mean(0)


class MeanProbability(nn.Module):
    """The ensemble's predictive distribution, [B, ...] -> log mean_m p_m(y|x) [B, K].

    Source: HyperGAN paper, section 4.2, scoring rule. Log-probabilities, so that cross-entropy of
    the output is the negative log-likelihood of the mixture.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        logits = self.ensemble(x)
        count = torch.tensor(float(logits.shape[0]), dtype=logits.dtype)
        return torch.logsumexp(logits.log_softmax(-1), 0) - count.log()
