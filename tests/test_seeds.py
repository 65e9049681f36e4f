import subprocess
import sys

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lib.seeds import generator

# Text, integers and their like as the study uses them: (seed, purpose, epoch).
KEYS = st.lists(st.integers(0, 10**6) | st.text(max_size=6), min_size=1, max_size=4).map(tuple)


def stream(key, n=8):
    return torch.randint(2**62, (n,), generator=generator(*key)).tolist()


@given(key=KEYS)
def test_the_same_key_gives_the_same_stream(key):
    assert stream(key) == stream(key)


@given(one=KEYS, other=KEYS)
def test_different_keys_give_different_streams(one, other):
    assume(one != other)
    # 62 random bits: even one equal number is no accident.
    assert not set(stream(one)) & set(stream(other))


def test_parts_of_a_key_do_not_run_into_each_other():
    keys = [("ab",), ("a", "b"), ("a, b",), ("a", "", "b"), (1, 23), (12, 3), (123,), ("1", 23)]
    firsts = [stream(key, 1)[0] for key in keys]
    assert len(set(firsts)) == len(keys)


def test_the_stream_is_the_same_in_every_process():
    keys = [(0, "order", 3), (7, "stress"), ("one",)]
    script = (
        "import torch; from lib.seeds import generator\n"
        f"for key in {keys!r}:\n"
        "    print(*torch.randint(2**62, (8,), generator=generator(*key)).tolist())"
    )
    for hash_seed in ("0", "1"):  # Python's own hash() differs between processes
        made = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout  # fmt: skip
        assert [[int(n) for n in line.split()] for line in made.splitlines()] == [
            stream(key) for key in keys
        ]


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    n, seeds = 4000, 20
    draws = np.stack([torch.rand(n, generator=generator(s, "x")).numpy() for s in range(seeds)])
    correlations = np.corrcoef(draws)[np.triu_indices(seeds, 1)]
    # Of independent streams sqrt(n) r is standard normal: 190 of them stay below 4.5.
    assert np.abs(correlations).max() * np.sqrt(n) < 4.5
    assert abs(correlations.mean()) * np.sqrt(n * len(correlations)) < 4


def test_the_global_generator_is_left_alone(global_rng_untouched):
    global_rng_untouched(lambda: stream((0, "a")))
    torch.manual_seed(5)
    first = stream((0, "a"))
    torch.manual_seed(6)
    assert stream((0, "a")) == first
