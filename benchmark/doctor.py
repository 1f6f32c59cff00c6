"""What is installed and at hand, and what is missing."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from benchmark.store import default_store
from galleries.images import n_decoding_threads

EXTRAS = (
    "generate", "masks", "wildlife", "cluster", "transformers", "opencv", "train", "language-judge",
    "dev",
)  # fmt: skip


def report() -> dict[str, dict[str, Any]]:
    """Packages, devices, caches and missing extras, by title."""
    import re

    needed: dict[str, list[str]] = {"": []}
    for requirement in requires("finer-rank") or []:
        name, _, condition = requirement.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        needed.setdefault(extra.group(1) if extra else "", []).append(re.split(r"[ <>=!~\[]", name.strip())[0])
    packages = {name: found for name in needed[""] if (found := _version(name))}
    missing = {
        f"extra {extra!r}": f"{', '.join(gone)}: pip install 'finer-rank[{extra}]'"
        for extra in EXTRAS
        if (gone := [name for name in needed.get(extra, []) if not _version(name)])
    }
    return {
        "program": {
            "finer-rank": version("finer-rank"),
            "Python": sys.version.split()[0],
            "platform": platform.platform(),
        },
        "devices": _devices(),
        "caches": _caches(),
        "packages": packages,
        "missing": missing or {"nothing": "all extras are installed"},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    devices: dict[str, Any] = {"CPU threads": n_decoding_threads()}
    try:
        import torch

        devices["CUDA"] = (
            ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            or "no GPU; the CPU is used"
        )
        devices["MPS"] = "yes" if torch.backends.mps.is_available() else "no"
    except (ImportError, OSError) as error:
        devices["torch"] = f"does not load ({error}); install finer-rank again"
    try:
        import faiss

        devices["FAISS GPUs"] = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    except (ImportError, OSError) as error:
        devices["FAISS"] = f"does not load ({error}); install faiss-gpu or faiss-cpu"
    return devices


def _caches() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    return {
        "embedding store": _store(),
        "weights from the hub": f"{HF_HUB_CACHE}{' (HF_HUB_OFFLINE is set: nothing is downloaded)' if offline else ''}",
    }


def _store() -> str:
    store = default_store()
    if isinstance(store, str):
        return f"{store} (not looked into)"
    shards = list(store.glob("*/*.parquet")) if store.is_dir() else []
    size = sum(shard.stat().st_size for shard in shards)
    unfinished = len(list(store.glob("*/.*.parquet.*"))) if store.is_dir() else 0
    damaged = len(list(store.glob("*/*.damaged"))) if store.is_dir() else 0
    n_embedders = len({shard.parent for shard in shards})
    return f"{store} ({n_embedders} embedders, {size / 1e6:.1f} MB, {damaged} damaged, {unfinished} unfinished shards)"
