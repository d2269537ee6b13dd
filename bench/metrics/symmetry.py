"""Weight distances between networks modulo symmetries, which change weights but not the function.

Two are removed. Scaling: ReLU, leaky ReLU and max-pooling are positively homogeneous, so that a hidden
channel's incoming weights and bias may be multiplied by c > 0 and its outgoing weights by 1/c. Permutation:
the channels of a hidden layer may be reordered. Pure functions of weights, in float64, on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from bench.engine.steps import Step, read

Weights = Mapping[str, Tensor | np.ndarray]

TOLERANCE = 1e-12  # for changes of ln c in one sweep: well above rounding errors, far below float32
MIN_GAIN = 1e-12  # relative to the largest inner product: permutations that gain less are ties and may cycle
NETWORKS = 20  # compared by `weight_distance`: bounds its cost, about a second, for any ensemble size


@dataclass(frozen=True)
class _Layer:
    """Weights [M, O, I, S] and biases [M, O] (zeros if it has none) of one layer.

    I counts the channels of the previous layer, S spatial positions: of a kernel, or of a flattened map.
    So the outgoing weights of channel i are `weight[:, :, i]` of the next layer, whatever its kind.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray


def balanced(steps: Sequence[Step], weights: Weights) -> dict[str, np.ndarray]:
    """Weights of the same functions, rescaled such that ||incoming with bias|| = ||outgoing|| per channel.

    Channel j's incoming weights and bias are multiplied by c_j > 0 and its outgoing weights by 1/c_j; biases
    of later layers stay. Layer by layer c_j^2 = ||outgoing_j|| / ||incoming_j||, in sweeps, until no ln c_j
    changes by more than 1e-12. With L hidden layers a sweep reduces the error to at most cos(pi / (L + 1))
    of it. The result is the unique minimum of the norm over scalings: networks that differ by a scaling get
    the same weights. A dead channel, without incoming or without outgoing weights, is not changed.

    steps: of `bench.engine.steps.read`; weights: by name [M, *shape]. Returns the same names and shapes.
    Raises ValueError if weights do not fit the steps, are not finite or have squares beyond float64, or
    if a layer does not read the channels of the previous one.
    """
    return _named(_balance(_layers(steps, weights)), weights)


def matched(steps: Sequence[Step], weights: Weights, reference: Weights) -> dict[str, np.ndarray]:
    """Weights of the same function, hidden channels permuted to be closest to the reference's.

    max over permutations p of sum_j <v_p(j), r_j>, with v and r the incoming weights, bias and outgoing
    weights of a channel: exact for one hidden layer, by linear assignment. Several layers are optimised in
    turn until nothing changes, a local optimum: the distance is an upper bound on the minimum. Two starts,
    the given order and a match of incoming weights from the first layer on; the closer result is taken.
    So the distance never exceeds that of the given weights, and a permuted copy whose channels differ
    in their incoming weights is matched exactly. Nothing is scaled: see `balanced`.

    steps: as in `balanced`; weights, reference: one network each, by name [*shape]. Raises ValueError as
    `balanced`. Source: Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin", section 3.2, layers in order.
    """
    ours, theirs = (_network(steps, x) for x in (weights, reference))
    found = _named(_match(ours, theirs), {n: _array(w)[None] for n, w in weights.items()})
    return {name: w[0] for name, w in found.items()}


def distances(
    steps: Sequence[Step], weights: Weights, pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each pair of networks as given, and after balancing and matching them; [n] each.

    ||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) over all weights and biases, with the norms of the weights
    compared: 0 for equal networks, sqrt 2 for orthogonal ones of equal norm, 2 for opposite ones. Aligned, it
    is 0 for a network and its scaled and permuted copy (see `matched` for when this is guaranteed). Other
    symmetries remain: duplicate or inactive channels, a constant added to all logits.

    steps, weights: as in `balanced`; pairs: indices of networks. Raises ValueError as `balanced`.
    """
    canonical = balanced(steps, weights)
    raw, aligned = np.zeros(len(pairs)), np.zeros(len(pairs))
    for i, pair in enumerate(pairs):
        raw[i] = _distance(*(_network(steps, {n: w[m] for n, w in weights.items()}) for m in pair))
        ours, theirs = ({n: w[m] for n, w in canonical.items()} for m in pair)
        nearest = matched(steps, ours, theirs)
        aligned[i] = _distance(*(_network(steps, x) for x in (nearest, theirs)))
    return raw, aligned


def weight_distance(network: nn.Module, weights: Weights) -> dict[str, float]:
    """Mean distance of two networks: `weight_distance`, and modulo symmetries `weight_distance_aligned`.

    As `distances`, over consecutive pairs of the first 20 networks; for exchangeable draws the choice of
    pairs does not matter. weights: by name [M, *shape]. Raises ValueError for fewer than two networks, for a
    network with a layer that `bench.engine.steps` does not support, and as `balanced`.
    """
    steps = read(network)
    if steps is None:
        raise ValueError(
            "expected a sequence of convolutions, linear layers, ReLU, leaky ReLU and max-pooling, found "
            "another layer or setting, whose symmetries are not known; omit this distance"
        )
    first = {name: _array(w[:NETWORKS]) for name, w in weights.items()}
    members = min((len(w) for w in first.values()), default=0)
    if members < 2:
        raise ValueError(f"expected two networks or more, found {members}; a distance needs two")
    raw, aligned = distances(steps, first, [(m, m + 1) for m in range(members - 1)])
    return {"weight_distance": float(raw.mean()), "weight_distance_aligned": float(aligned.mean())}


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return values.astype(np.float64)


def _layers(steps: Sequence[Step], weights: Weights) -> list[_Layer]:
    """The layers that have weights, checked as documented in `balanced`."""
    expected = {f"{s.name}.{n}" for s in steps if s.has_weights for n, _ in s.module.named_parameters()}
    if expected != set(weights):
        raise ValueError(f"expected weights named {sorted(expected)}, found {sorted(weights)}")
    layers: list[_Layer] = []
    form = ""  # of the activations here: a map, a flattened map or a vector; empty before the first layer
    for step in steps:
        if step.has_weights:
            found = {n: _parameter(step, n, p, weights) for n, p in step.module.named_parameters()}
            members, outputs, inputs = found["weight"].shape[:3]
            channels = layers[-1].bias.shape[1] if layers else inputs
            if not _reads(form, step.kind, inputs, channels):
                raise ValueError(
                    f"{step.name}: expected a layer that reads {channels} channels from a {form}, found "
                    f"{step.module}; symmetries are known only if maps are flattened before a linear layer"
                )
            bias = found["bias"] if "bias" in found else np.zeros((members, outputs))
            layers.append(_Layer(step.name, found["weight"].reshape(members, outputs, channels, -1), bias))
            form = "map" if step.kind == "conv" else "vector"
        elif step.kind == "flatten" and form == "map":
            form = "flattened map"
        elif step.kind == "pool" and form not in ("", "map"):
            raise ValueError(f"{step.name}: expected to pool a map, found a {form}; pool before flattening")
    return layers


def _network(steps: Sequence[Step], weights: Weights) -> list[_Layer]:
    """The layers of one network, given weights without the member axis."""
    return _layers(steps, {name: _array(w)[None] for name, w in weights.items()})


def _parameter(step: Step, name: str, parameter: nn.Parameter, weights: Weights) -> np.ndarray:
    found = _array(weights[f"{step.name}.{name}"])
    if found.shape[1:] != parameter.shape:
        raise ValueError(
            f"{step.name}.{name}: expected [M, {', '.join(map(str, parameter.shape))}], found "
            f"{list(found.shape)}; stack the weights of this network"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{step.name}.{name}: expected finite weights, found NaN or infinity; has the fit diverged?"
        )
    return found


def _reads(form: str, kind: str, inputs: int, channels: int) -> bool:
    """Whether each channel of the previous layer has its own weights in this layer."""
    match form, kind:
        case ("", _):
            return True
        case ("map", "conv") | ("vector", "linear"):
            return inputs == channels
        case ("flattened map", "linear"):
            return inputs % channels == 0
    return False


def _named(layers: Sequence[_Layer], weights: Weights) -> dict[str, np.ndarray]:
    """Layers as weights by name, in the order and the shapes of `weights`."""
    values = {f"{x.name}.weight": x.weight for x in layers} | {f"{x.name}.bias": x.bias for x in layers}
    return {name: values[name].reshape(tuple(w.shape)) for name, w in weights.items()}


def _balance(layers: Sequence[_Layer]) -> list[_Layer]:
    # Only sums of squares per pair of channels matter, [M, O, I], so sweeps are cheap.
    with np.errstate(over="ignore"):
        squares = [np.square(layer.weight).sum(-1) for layer in layers]
        biases = [np.square(layer.bias) for layer in layers]
    logs = [np.zeros(layer.bias.shape) for layer in layers[:-1]]
    moved = np.inf
    while moved > TOLERANCE:
        moved = 0.0
        for i, log in enumerate(logs):
            before, after = squares[i], squares[i + 1]
            with np.errstate(over="ignore", invalid="ignore"):
                if i > 0:
                    before = before * np.exp(-2 * logs[i - 1])[:, None]
                if i + 1 < len(logs):
                    after = after * np.exp(2 * logs[i + 1])[:, :, None]
                incoming, outgoing = biases[i] + before.sum(2), after.sum(1)
                # ln c = ln(||outgoing|| / ||incoming||) / 2, from squares; 0 for a dead channel.
                live = (incoming > 0) & (outgoing > 0)
                into, out = (np.log(x, where=live, out=np.zeros_like(log)) for x in (incoming, outgoing))
                best = (out - into) / 4
            if not np.isfinite(best).all():
                raise ValueError(f"{layers[i].name}: expected weights with finite squares, found larger ones")
            moved = max(moved, float(np.abs(best - log).max(initial=0)))
            log[...] = best
    return _scaled(layers, [np.exp(log) for log in logs])


def _scaled(layers: Sequence[_Layer], scales: Sequence[np.ndarray]) -> list[_Layer]:
    """Layers with hidden channels multiplied by scales [M, O], and divided by them in the next layer."""
    found = []
    for i, layer in enumerate(layers):
        weight, bias = layer.weight, layer.bias
        if i < len(scales):
            weight, bias = weight * scales[i][:, :, None, None], bias * scales[i]
        if i > 0:
            weight = weight / scales[i - 1][:, None, :, None]
        found.append(_Layer(layer.name, weight, bias))
    return found


def _permuted(layers: Sequence[_Layer], orders: Sequence[np.ndarray]) -> list[_Layer]:
    """Layers whose j-th hidden channel is the former `order[j]`-th."""
    found = []
    for i, layer in enumerate(layers):
        weight, bias = layer.weight, layer.bias
        if i < len(orders):
            weight, bias = weight[:, orders[i]], bias[:, orders[i]]
        if i > 0:
            weight = weight[:, :, orders[i - 1]]
        found.append(_Layer(layer.name, weight, bias))
    return found


def _distance(ours: Sequence[_Layer], theirs: Sequence[_Layer]) -> float:
    """||a - b|| over the root mean square of both norms, for one network each; 0 if all weights are 0."""

    def squares(parts: list[np.ndarray]) -> float:
        return float(sum(np.vdot(x, x) for x in parts))

    a, b = ([x for layer in layers for x in (layer.weight, layer.bias)] for layers in (ours, theirs))
    apart = squares([x - y for x, y in zip(a, b, strict=True)])
    return float(np.sqrt(2 * apart / (squares(a) + squares(b)))) if apart else 0.0


def _match(ours: Sequence[_Layer], theirs: Sequence[_Layer]) -> list[_Layer]:
    """One network's layers with hidden channels permuted as `matched` describes."""
    hidden = range(len(ours) - 1)
    places = [np.arange(ours[i].bias.shape[1]) for i in hidden]
    forward = list(places)
    for i in hidden:
        forward[i] = _assigned(_incoming(ours, theirs, forward, i))
    ends = []
    for orders in (places, forward):
        orders = list(orders)
        changed = True
        while changed:
            changed = False
            for i in hidden:
                inner = _incoming(ours, theirs, orders, i) + _outgoing(ours, theirs, orders, i)
                best = _assigned(inner)
                gain = inner[best, places[i]].sum() - inner[orders[i], places[i]].sum()
                if gain > MIN_GAIN * np.abs(inner).max():
                    orders[i], changed = best, True
        ends.append(_permuted(ours, orders))
    return min(ends, key=lambda end: _distance(end, theirs))


def _incoming(
    ours: Sequence[_Layer], theirs: Sequence[_Layer], orders: Sequence[np.ndarray], i: int
) -> np.ndarray:
    """Inner products [ours, theirs] of incoming weights and biases, given the previous layer's order."""
    weight, channels = ours[i].weight[0], ours[i].bias.shape[1]
    if i > 0:
        weight = weight[:, orders[i - 1]]
    other = theirs[i].weight[0].reshape(channels, -1)
    return weight.reshape(channels, -1) @ other.T + np.outer(ours[i].bias[0], theirs[i].bias[0])


def _outgoing(
    ours: Sequence[_Layer], theirs: Sequence[_Layer], orders: Sequence[np.ndarray], i: int
) -> np.ndarray:
    """Inner products [ours, theirs] of outgoing weights, given the next layer's order."""
    weight, channels = ours[i + 1].weight[0], ours[i].bias.shape[1]
    if i + 1 < len(orders):
        weight = weight[orders[i + 1]]
    mine, other = (w.swapaxes(0, 1).reshape(channels, -1) for w in (weight, theirs[i + 1].weight[0]))
    return mine @ other.T


def _assigned(inner: np.ndarray) -> np.ndarray:
    """For each of their channels one of ours, maximising the sum of inner products [ours, theirs]."""
    return np.asarray(linear_sum_assignment(inner.T, maximize=True)[1])
