"""Target networks: small, without buffers, normalising their input; images in [0, 1].

The column `layer` uses these layer names. Weights follow Tables 3 and 4 of the HyperGAN paper
(Ratzlaff & Li); every layer has a bias, which the paper's code omits on MNIST.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

LEAKY_SLOPE = 0.01  # PyTorch's default; the paper does not give the slope of its leaky ReLU
MNIST_MEAN, MNIST_SD = (0.1307,), (0.3081,)  # of the 60,000 training images
CIFAR_MEAN, CIFAR_SD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # as in the reference code

# The output for one image depends on the others of its batch.
BATCH_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NOISY_LAYERS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU,
)  # fmt: skip
# Layers that PyTorch starts at fixed numbers: that of the weight; a bias starts at 0.
STARTS = (
    (nn.GroupNorm, 1.0), (nn.LayerNorm, 1.0), (nn.RMSNorm, 1.0), (nn.InstanceNorm1d, 1.0),
    (nn.InstanceNorm2d, 1.0), (nn.InstanceNorm3d, 1.0), (nn.PReLU, 0.25),
)  # fmt: skip


class Normalise(nn.Module):
    """Subtracts a mean and divides by a standard deviation per channel.

    Plain numbers, not buffers, so that a network's state consists of its weights only. Their tensors are
    cached by device: created at every call, they would make the host wait for a GPU each time.
    """

    def __init__(self, mean: tuple[float, ...], sd: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.sd = mean, sd
        self._held: dict[tuple[torch.device, torch.dtype, int], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        mean, sd = self._constants(x)
        return (x - mean) / sd

    @torch.inference_mode(False)  # kept ones may be asked for gradients later
    def _constants(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = (x.device, x.dtype, x.dim())
        if key not in self._held:
            shape = (-1, *[1] * (x.dim() - 2))
            mean, sd = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.mean, self.sd))
            self._held[key] = mean.view(shape), sd.view(shape)
        return self._held[key]

    def extra_repr(self) -> str:
        return f"mean={self.mean}, sd={self.sd}"


def mnist(classes: int = 10) -> nn.Sequential:
    """The MNIST network: 31,520 weights and 74 biases for ten classes.

    28 -> conv 32@5x5 -> 24 -> pool 12 -> conv 32@5x5 -> 8 -> pool 4 -> 512 -> classes.
    Input [B, 1, 28, 28] in [0, 1]; output logits [B, K]. Source: paper, section 4.1 and Table 3.
    """
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(MNIST_MEAN, MNIST_SD),
            conv1=nn.Conv2d(1, 32, 5),
            activation1=nn.LeakyReLU(LEAKY_SLOPE),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 32, 5),
            activation2=nn.LeakyReLU(LEAKY_SLOPE),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear=nn.Linear(512, classes),
        )
    )


def cifar(classes: int = 10) -> nn.Sequential:
    """The CIFAR network: 57,520 weights and 250 biases for ten classes.

    32 -> conv 16@3x3 -> pool 15 -> conv 32@3x3 -> pool 6 -> conv 64@3x3 -> pool 2 -> 256 -> 128 ->
    classes, without padding, as Table 4's 256 = 64*2*2 implies. Its "32x64x3x3" must be
    64x32x3x3. Input [B, 3, 32, 32] in [0, 1]; output logits [B, K]. Source: paper, Table 4.
    """
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(CIFAR_MEAN, CIFAR_SD),
            conv1=nn.Conv2d(3, 16, 3),
            activation1=nn.LeakyReLU(LEAKY_SLOPE),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3),
            activation2=nn.LeakyReLU(LEAKY_SLOPE),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(32, 64, 3),
            activation3=nn.LeakyReLU(LEAKY_SLOPE),
            pool3=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(256, 128),
            activation4=nn.LeakyReLU(LEAKY_SLOPE),
            linear2=nn.Linear(128, classes),
        )
    )


def toy() -> nn.Sequential:
    """The regression network: 1 -> 100 units with ReLU -> 1, 200 weights and 101 biases.

    Input [B, 1], not normalised; output [B, 1]. Without biases its only kink would be at 0, and it could
    not fit x^3. Source: paper, section 4.3.
    """
    return nn.Sequential(
        OrderedDict(hidden=nn.Linear(1, 100), activation=nn.ReLU(), output=nn.Linear(100, 1))
    )


class Shapes(dict[str, torch.Size]):
    """Name and shape of every weight and bias of a network, in the network's order.

    starts: those that PyTorch starts at one number, with it, by name.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__((name, p.shape) for name, p in network.named_parameters())
        self.starts: dict[str, float] = {}
        for layer, module in network.named_modules():
            weight = next((value for kind, value in STARTS if isinstance(module, kind)), None)
            if weight is not None:
                own = (name for name, _ in module.named_parameters(layer, recurse=False))
                self.starts |= {n: weight if n.endswith("weight") else 0.0 for n in own}


def shapes(network: nn.Module) -> Shapes:
    """Name and shape of every weight and bias of a network, in the network's order.

    Raises ValueError for a network that is not one function of an image: with layers that read the other
    images of a batch or draw random numbers, and with buffers, which stacked weights could not carry.
    """
    for name, module in network.named_modules():
        if isinstance(module, BATCH_LAYERS):
            raise ValueError(
                f"{name}: expected layers whose output for an image depends on that image alone, found "
                f"{module}, which reads the whole batch; use GroupNorm, LayerNorm or InstanceNorm"
            )
        if isinstance(module, NOISY_LAYERS):
            raise ValueError(
                f"{name}: expected layers without random numbers, found {module}; leave it out of the target "
                "network: methods bring their own noise, and each network that is drawn is one function"
            )
    buffers = [name for name, _ in network.named_buffers()]
    if buffers:
        raise ValueError(
            f"expected a network without buffers, found {buffers}; "
            "use layers without running statistics (GroupNorm, LayerNorm, InstanceNorm without them)"
        )
    return Shapes(network)


def count(network: nn.Module) -> int:
    """Number of weights and biases, P."""
    return sum(shape.numel() for shape in shapes(network).values())


def stacked(vectors: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Vectors [M, P] as stacked weights by name, [M, *shape]: the inverse of `Ensemble.vectors`.

    shapes: of the network, in its order, as returned by `shapes`.
    """
    parts = vectors.split([shape.numel() for shape in shapes.values()], 1)
    return {n: part.unflatten(1, s) for (n, s), part in zip(shapes.items(), parts, strict=True)}


def initial(shapes: Mapping[str, torch.Size], rng: torch.Generator) -> dict[str, Tensor]:
    """PyTorch's default initialisation of one network, from a given generator and on the CPU.

    Weights and biases ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)), fan_in that of the layer's weight; those of
    normalisation layers are 1 and 0, and the slope of a PReLU is 0.25.
    shapes: of `<layer>.weight` and `<layer>.bias`, as returned by `shapes`. Raises ValueError for others.
    """
    fan_in = {n.rpartition(".")[0]: s[1:].numel() for n, s in shapes.items() if n.endswith("weight")}
    strange = [name for name in shapes if name.rpartition(".")[0] not in fan_in]
    if strange:
        raise ValueError(
            f"expected parameters <layer>.weight and <layer>.bias, found {strange}; name the layer's "
            "parameters so, or initialise them in the method"
        )
    starts = shapes.starts if isinstance(shapes, Shapes) else {}
    values = {}
    for name, shape in shapes.items():
        bound = 1 / math.sqrt(fan_in[name.rpartition(".")[0]])
        # Drawn in any case: the numbers of other layers do not depend on the kind of this one.
        drawn = (torch.rand(shape, generator=rng) * 2 - 1) * bound
        values[name] = torch.full(shape, starts[name]) if name in starts else drawn
    return values
