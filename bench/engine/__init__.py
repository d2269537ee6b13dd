"""How stacked networks are evaluated: fast, in bounded memory, by the way that suits the device."""

from bench.engine.engine import Engine, Loss
from bench.engine.precision import float32
from bench.engine.ways import Batched, LayerOperation, MemberLoop, Vmap, Way, Weights

__all__ = ["Batched", "Engine", "LayerOperation", "Loss", "MemberLoop", "Vmap", "Way", "Weights", "float32"]
