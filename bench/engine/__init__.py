"""How stacked networks are evaluated: fast, in bounded memory, by the way that suits the device."""

from bench.engine.engine import Engine
from bench.engine.gradients import Loss
from bench.engine.linear import BlockLinear
from bench.engine.memberloop import MemberLoop, apply
from bench.engine.parallel import single_threaded
from bench.engine.pieces import summed
from bench.engine.precision import float32
from bench.engine.recording import Recorded, Row
from bench.engine.shortage import shortage
from bench.engine.steps import Step
from bench.engine.ways import Batched, InputOperation, LayerOperation, Vmap, Way, Weights
from bench.engine.work import Cost, product, spent, watch

__all__ = [
    "Batched",
    "BlockLinear",
    "Cost",
    "Engine",
    "InputOperation",
    "LayerOperation",
    "Loss",
    "MemberLoop",
    "Recorded",
    "Row",
    "Step",
    "Vmap",
    "Way",
    "Weights",
    "apply",
    "float32",
    "product",
    "shortage",
    "single_threaded",
    "spent",
    "summed",
    "watch",
]
