"""What a checkpoint says of itself is read without torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="writes a checkpoint with torch and safetensors")


def test_the_state_of_a_fit_is_read_from_its_checkpoint(tmp_path):
    from bench.records.checkpoints import Begun, begun
    from bench.training import checkpoint

    path = tmp_path / "fit.safetensors"
    assert begun(path) is None
    about = {"rounds": 3, "cost": {"seconds": 1.0, "cpu_seconds": 1.0, "flop": 12}, "finished": False}
    checkpoint.write(path, {"w": torch.zeros(3)}, about)
    assert begun(path) == Begun(3, 12, False)
    path.write_bytes(path.read_bytes()[:20])
    assert begun(path) is None
