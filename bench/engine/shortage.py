"""Memory of a GPU: how much of it is free, and which errors say that it ran out."""

from __future__ import annotations

import torch

# What libraries say where they could not allocate; each has its own error. cuDNN finds no engine too where
# none has room for what it needs: an error of another cause comes back from the smallest call, and is raised.
_MARKS = (
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "unable to find an engine to execute this computation",
)


def shortage(error: BaseException) -> bool:
    """Whether a call failed for want of memory on a GPU, so that a smaller one may succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)


def total_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory."""
    return torch.cuda.get_device_properties(device).total_memory


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that this process may still use: free ones, and what its allocator holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
