"""All random states of a process, in the plain types that a checkpoint can hold."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mtrl.core.errors import expected


def seed_process(seed: int) -> None:
    """Seed the global generators of Python and NumPy. mtrl does not use them, but other libraries may."""
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(generators: Mapping[str, torch.Generator] | None = None) -> dict[str, Any]:
    """The states of Python, NumPy (global), PyTorch (CPU, every CUDA device) and the given generators."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "key": torch.tensor(legacy["state"]["key"].astype(np.int64)),
            "position": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": {
            name: {"device": generator.device.type, "state": generator.get_state()}
            for name, generator in (generators or {}).items()
        },
    }


def restore_random_state(state: Mapping[str, Any], generators: Mapping[str, torch.Generator] | None = None) -> None:
    """Restore a state from `random_state`, so that all later draws are the same.

    A generator that was saved on another kind of device cannot continue with the same draws. It gets a seed computed
    from its saved state, so that it does not repeat earlier draws. CUDA devices that are missing now are left out.

    Raises:
        UserError: the generators' names differ from those that were saved; nothing is restored.
    """
    generators = generators or {}
    if generators.keys() != state["generators"].keys():
        raise expected("Random generators in the checkpoint", str(sorted(generators)), sorted(state["generators"]))
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = legacy["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, legacy["position"], legacy["has_gauss"], legacy["gauss"]))
    torch.set_rng_state(state["torch"].cpu())
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(saved.cpu(), device)
    for name, generator in generators.items():
        _restore(generator, state["generators"][name])


def _restore(generator: torch.Generator, saved: Mapping[str, Any]) -> None:
    state = saved["state"].cpu()
    if generator.device.type == saved["device"]:
        generator.set_state(state)
    else:
        digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
        generator.manual_seed(int.from_bytes(digest, "big"))
