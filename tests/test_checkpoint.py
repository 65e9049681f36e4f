"""Checkpoints as files: what was put in comes out, or an error names the file."""

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib.checkpoint import CheckpointError, fill, restore, save

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8,
          torch.bool]  # fmt: skip
PARTS = {
    "network": {"a.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)},
    "moments": {"0": torch.linspace(-1, 1, 5).half()},
}
RECIPE = {"kind": "ns", "steps": 10, "rate": 0.1}
HISTORY = [{"step": 5, "loss": 0.25}, {"step": 10, "loss": 0.125}]

words = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=5)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.randint(0, 200, shape, generator=torch.Generator().manual_seed(0))
    tensor = values.to(draw(st.sampled_from(DTYPES)))
    return tensor.mT if tensor.ndim > 1 and draw(st.booleans()) else tensor


def same(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save(path, PARTS, RECIPE, HISTORY)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@given(
    st.dictionaries(words, st.dictionaries(names, tensors(), min_size=1, max_size=3), max_size=3),
    st.dictionaries(words, json_values, max_size=3),
    st.lists(st.dictionaries(words, json_values, max_size=3), max_size=3),
)
def test_what_is_saved_is_restored(folder, parts, recipe, history):
    path = folder / "one" / "checkpoint.safetensors"
    save(path, parts, recipe, history)
    restored, told = restore(path, recipe)
    assert told == history
    assert restored.keys() == parts.keys()
    assert all(same(restored[part], parts[part]) for part in parts)
    assert list(path.parent.iterdir()) == [path]


def test_dots_belong_to_names_not_to_parts(path):
    parts, history = restore(path, RECIPE)
    assert history == HISTORY
    assert parts.keys() == PARTS.keys()
    assert all(same(parts[part], PARTS[part]) for part in PARTS)


def test_no_file_no_parts(tmp_path):
    assert restore(tmp_path / "none.safetensors", RECIPE) == ({}, [])
    assert restore(str(tmp_path / "none.safetensors"), RECIPE) == ({}, [])


@pytest.mark.parametrize("key", list(RECIPE))
def test_another_recipe_names_what_differs(key, path, refuses):
    message = refuses(
        lambda: restore(path, RECIPE | {key: "other"}), path, key, error=CheckpointError
    )
    said = message.replace(str(path), "")
    assert not any(other in said for other in RECIPE.keys() - {key})
    refuses(lambda: restore(path, dict.fromkeys(RECIPE, "other")), *RECIPE, error=CheckpointError)


def test_a_recipe_with_more_or_fewer_settings_is_another(path, refuses):
    refuses(lambda: restore(path, RECIPE | {"width": 3}), path, "width", error=CheckpointError)
    refuses(lambda: restore(path, RECIPE | {"width": None}), path, "width", error=CheckpointError)
    fewer = {key: RECIPE[key] for key in ("kind", "steps")}
    refuses(lambda: restore(path, fewer), path, "rate", error=CheckpointError)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_damaged(share, path, refuses):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refuses(lambda: restore(path, RECIPE), path, error=CheckpointError)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_changed_byte_is_never_taken_for_the_truth(folder, share, mask):
    """Wherever it lies, in the tensors too: they would silently be other weights."""
    path = folder / "changed.safetensors"
    save(path, PARTS, RECIPE, HISTORY)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= mask
    path.write_bytes(content)
    with suppress(CheckpointError):
        parts, history = restore(path, RECIPE)
        assert history == HISTORY  # a byte of the padding may mean nothing
        assert parts.keys() == PARTS.keys()
        assert all(same(parts[part], PARTS[part]) for part in PARTS)


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def no_history(path):
    save_file({"a.b": torch.zeros(3)}, path, {"recipe": json.dumps(RECIPE)})


def no_json(path):
    save_file({"a.b": torch.zeros(3)}, path, {"recipe": "{", "history": "[]"})


def no_settings(path):
    save_file({"a.b": torch.zeros(3)}, path, {"recipe": "[1]", "history": "[]"})


def pickled(path):
    torch.save(PARTS, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [foreign, no_history, no_json, no_settings, pickled, a_folder])
def test_what_no_training_wrote_is_foreign(damage, path, refuses):
    damage(path)
    refuses(lambda: restore(path, RECIPE), path, error=CheckpointError)
    assert issubclass(CheckpointError, ValueError)


# ------------------------------------------------------------------ into the tensors in use


def test_fill_copies_in_place_and_across_dtypes():
    target = {"a": torch.zeros(2, 2), "b": torch.zeros((), dtype=torch.int64)}
    places = [value.data_ptr() for value in target.values()]
    found = {"b": torch.tensor(3), "a": torch.tensor([[1, 2], [3, 4.5]]).half()}
    fill("some file", target, found)
    assert target["a"].tolist() == [[1, 2], [3, 4.5]]
    assert target["b"] == 3
    assert [value.data_ptr() for value in target.values()] == places
    assert target["a"].dtype == torch.float32


def test_fill_goes_into_parameters_that_train():
    weight = torch.nn.Parameter(torch.zeros(3))
    fill("some file", {"w": weight}, {"w": torch.ones(3)})
    assert torch.equal(weight.detach(), torch.ones(3))
    assert weight.requires_grad
    assert weight.grad_fn is None


OTHERS = {
    "missing": (["a", "c"], "b"),
    "more": (["a", "b", "bb", "c"], "bb"),
    "empty": ([], "a"),
    "first of several": (["a"], "b"),
}


@pytest.mark.parametrize(("names", "first"), OTHERS.values(), ids=list(OTHERS))
def test_fill_refuses_other_names_and_copies_nothing(names, first, refuses):
    target = {name: torch.zeros(2) for name in "abc"}
    refuses(
        lambda: fill("some file", target, {name: torch.ones(2) for name in names}),
        "some file", f"{first} is", "missing", error=CheckpointError,
    )  # fmt: skip
    assert not any(value.any() for value in target.values())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 2)])
def test_fill_refuses_other_shapes_and_copies_nothing(shape, refuses):
    """Those, too, that could be broadcast."""
    target = {name: torch.zeros(2) for name in "abc"}
    found = {name: torch.ones(2) for name in "ab"} | {"c": torch.ones(shape)}
    refuses(
        lambda: fill("some file", target, found), "some file", "c is", list(shape), [2],
        error=CheckpointError,
    )  # fmt: skip
    assert not any(value.any() for value in target.values())


# ------------------------------------------------------------------ a write that fails


@pytest.mark.parametrize("what", ["recipe", "history", "tensors", "disk"])
def test_a_write_that_fails_leaves_the_old_file(what, path, monkeypatch):
    before = path.read_bytes()
    parts, recipe, history = PARTS, RECIPE, HISTORY
    if what == "recipe":
        recipe = {"kind": object()}
    elif what == "history":
        history = [object()]
    elif what == "tensors":
        parts = {"a": {"b": torch.zeros(3).to_sparse()}}
    else:

        def full(tensors, file, metadata):
            file.write_bytes(b"half of it")
            raise OSError("no space left on device")

        monkeypatch.setattr("lib.checkpoint.save_file", full)
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the failure is)
        save(path, parts, recipe, history)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
