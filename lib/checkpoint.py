"""Checkpoints: a training's tensors in one safetensors file, with its recipe and its history."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.files import replacing


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that another training wrote."""


def save(path, parts, recipe, history):
    """Write `parts`, tensors by name in dicts by name, whole or not at all.

    `recipe` (what makes this training another than others) and `history` must fit into JSON.
    """
    tensors = {
        f"{part}.{name}": value.contiguous()
        for part, named in parts.items()
        for name, value in named.items()
    }
    metadata = {"recipe": json.dumps(recipe), "history": json.dumps(history)}
    metadata["digest"] = _digest(tensors, *metadata.values())
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def restore(path, recipe, device="cpu"):
    """The parts and the history of the checkpoint at `path`, empty ones where there is no file.

    Raises CheckpointError, naming the file, if it is damaged or its recipe is not `recipe`.
    """
    if not Path(path).exists():
        return {}, []
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(tensors, metadata["recipe"], metadata["history"]):
            raise ValueError("its digest is of other contents")
        history, written = json.loads(metadata["history"]), json.loads(metadata["recipe"])
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged or foreign: {error!r}") from error
    wanted = json.loads(json.dumps(recipe))
    keys = sorted(wanted.keys() | written.keys())
    if other := [key for key in keys if wanted.get(key, ...) != written.get(key, ...)]:
        raise CheckpointError(
            f"checkpoint {path} is of another training: {', '.join(other)} differ"
        )
    parts = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts, history


def history_of(path):
    """The history of the checkpoint at `path`, whatever made it; empty if there is none to read."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["history"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return []


def _digest(tensors, *texts):
    """safetensors has no checksum of its own."""
    digest = hashlib.sha256("\n".join(texts).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def fill(path, target, found):
    """Copy the tensors of a part of the checkpoint at `path` into those of the same names.

    Raises CheckpointError, before anything is copied, if names or shapes differ.
    """
    for name in sorted(target.keys() | found.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else "missing"
                  for tensors in (found, target)]  # fmt: skip
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"checkpoint {path} is of another network: {name} is {shapes[0]} in it and "
                f"{shapes[1]} here"
            )
    for name, value in target.items():
        value.copy_(found[name])
