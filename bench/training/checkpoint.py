"""Checkpoints: safetensors for tensors, JSON for the rest, written whole or not at all; no pickle."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.errors import BenchError
from bench.system.files import write_atomic

FORMAT = "ensemble-bench-fit-4"
SHOWN = 5  # differences that an error names
TENSOR = "tensor"  # the name in its part of a tensor that is kept by itself
Kept = nn.Module | Optimizer | Tensor
# What a fit that is killed may lose, beside the round that it is in: the smaller of both, but not less than a
# second; the larger of both where checkpoints are so large that they would take more than their share.
LOST_SECONDS, LOST_SHARE = 10.0, 0.05
SHORTEST = 1.0
WRITTEN_BYTES_A_SECOND = 1e8  # with checksum and copy, at least on a local disk
WRITING_SHARE = 0.05  # of a fit's time, for writing checkpoints


@dataclass(frozen=True)
class Pace:
    """How long a fit may wait for its next checkpoint, given how long it has run and how large they are."""

    began: float = field(default_factory=time.perf_counter)

    def seconds(self, path: Path, most: float) -> float:
        """Seconds between two checkpoints of the fit now, at most `most`.

        path: of the last one, which need not be there.
        """
        spent = LOST_SHARE * (time.perf_counter() - self.began)
        least = max(SHORTEST, min(LOST_SECONDS, spent))
        size = path.stat().st_size if path.exists() else 0
        writing = size / WRITTEN_BYTES_A_SECOND / WRITING_SHARE
        return min(max(least, writing), max(LOST_SECONDS, spent), most)


def state(parts: Mapping[str, Kept]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by `<part>/<name>`, and what is not a tensor (optimiser settings) by part."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
            continue
        if isinstance(part, Tensor):
            tensors[f"{name}/{TENSOR}"] = part
            continue
        held = part.state_dict()
        # A rate may be a tensor on a GPU; it is written as the number that it is.
        rest[name] = [
            {key: v.item() if isinstance(v, Tensor) else v for key, v in group.items()}
            for group in held["param_groups"]
        ]
        for index, values in held["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(v) for key, v in values.items()}
    return tensors, rest


def restore(parts: Mapping[str, Kept], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Put a state back into parts of the same shapes.

    Raises BenchError where names or shapes are not those of the parts.
    """
    by_part: dict[str, dict[str, Tensor]] = {name: {} for name in parts}
    for key, value in tensors.items():
        name, _, inner = key.partition("/")
        by_part.setdefault(name, {})[inner] = value
    for name, part in parts.items():
        try:
            if isinstance(part, nn.Module):
                part.load_state_dict(by_part[name])
            elif isinstance(part, Tensor):
                _restore_tensor(part, by_part[name][TENSOR])
            else:
                _restore_optimiser(part, by_part[name], rest[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise BenchError(
                f"checkpoint: part {name!r} does not fit: {error}; remove the checkpoint to train again"
            ) from error


@torch.no_grad()
def _restore_tensor(part: Tensor, found: Tensor) -> None:
    if (found.shape, found.dtype) != (part.shape, part.dtype):
        raise ValueError(
            f"expected {list(part.shape)} of {part.dtype}, found {list(found.shape)} of {found.dtype}"
        )
    part.copy_(found)


def _restore_optimiser(part: Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        position, _, inner = key.partition("/")
        found.setdefault(int(position), {})[inner] = value
    parameters = [p for group in part.param_groups for p in group["params"]]
    for index, values in found.items():
        for name, value in values.items():
            if value.dim() and value.shape != parameters[index].shape:
                raise ValueError(f"{name} of parameter {index} has shape {list(value.shape)}")
    before = [dict(group) for group in part.param_groups]
    part.load_state_dict({"state": found, "param_groups": groups})
    for group, own in zip(part.param_groups, before, strict=True):
        if isinstance(own.get("lr"), Tensor):  # stays where it is, for steps that are recorded
            group["lr"] = own["lr"].fill_(group["lr"])
        if "capturable" in own:  # hangs on the device, not on the file
            group["capturable"] = own["capturable"]


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document as one file, with the checksum of both."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(about)
    write_atomic(path, save(plain, {"format": FORMAT, "about": text, "sha256": _checksum(plain, text)}))


def read(path: Path, identity: Mapping[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a checkpoint.

    identity: what its document has to say of whose it is (None: anything). Raises BenchError for another
    format, for changed bytes and for a checkpoint of something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')!r}")
        if metadata["sha256"] != _checksum(tensors, metadata["about"]):
            raise ValueError("another checksum than it was written with")
        about = json.loads(metadata["about"])
        if identity is not None:
            _check_identity(about["identity"], json.loads(json.dumps(dict(identity))))
        return tensors, about
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{path}: expected a checkpoint of format {FORMAT}, found {error}; remove the file to train again"
        ) from error


def _check_identity(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises ValueError where a checkpoint is of another method, settings, seed, data or code."""
    before, asked = _flat(found), _flat(expected)
    none = "none"
    other = [key for key in sorted({*before, *asked}) if before.get(key, none) != asked.get(key, none)]
    if other:
        pairs = [f"{key} = {before.get(key, none)}, not {asked.get(key, none)}" for key in other[:SHOWN]]
        raise ValueError(f"another fit's ({'; '.join(pairs)})")


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the keys of the documents in it after a point."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= {key: value} if inner is None else {f"{key}.{name}": v for name, v in inner.items()}
    return found


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors in order of name, and over the document."""
    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return whole.hexdigest()
