import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from ruamel.yaml import YAML

from lib.records.schema import Count, Name, Number, Schema, Seed, Share, Sum, fit, name, read


class Part(Schema):
    count: Count
    rate: Number


class Whole(Schema):
    title: Name
    parts: Sum
    part: Part
    shares: Annotated[list[Share], Field(min_length=1)]
    seed: Seed = 0
    flag: bool = False


GOOD = {"title": "a", "parts": "a+b", "part": {"count": 2, "rate": 1}, "shares": [0, 0.5, 1]}


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "some.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("'no'", "no"), ("010", 10), ("1:30", "1:30"),
        ("1e-3", 0.001), ("5.0e-4", 0.0005), ("true", True), ("2026-01-01", None), ("~", None),
    ],
)  # fmt: skip
def test_yaml_means_what_it_looks_like(written, text, value):
    found = read(written(f"a: {text}\n"))["a"]
    if value is not None or text == "~":
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", ["duplicate", "'a'", "line 3"]),
        ("part:\n  x: 1\n  x: 2\n", ["duplicate", "'x'", "line 3"]),
        ("a: [1\n", ["no YAML"]),
        ("- a\n", ["settings by name"]),
        ("words", ["settings by name"]),
        ("1: 2\n", ["settings by name"]),
        ("", ["settings by name"]),
        ("a: é\n".encode("latin-1"), ["UTF-8"]),
    ],
)
def test_what_is_no_file_of_settings(written, refuses, content, said):
    message = refuses(lambda: read(written(content)), "some.yaml")
    for word in said:
        assert word.replace("'", '"') in message.replace("'", '"')


def test_a_folder_is_named(tmp_path, refuses):
    refuses(lambda: read(tmp_path), tmp_path, "folder")


def test_what_fits_is_given_back_whole():
    found = fit(Whole, GOOD, "x.yaml")
    assert found == GOOD | {"seed": 0, "flag": False}
    assert type(found["part"]["rate"]) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"part": {"count": "2", "rate": 1}}, ["part: count", "'2'", "integer"]),
        ({"part": {"count": 2.0, "rate": 1}}, ["part: count", "2.0", "integer"]),
        ({"part": {"count": True, "rate": 1}}, ["part: count", "True", "integer"]),
        ({"part": {"count": 0, "rate": 1}}, ["part: count", "equal to 1"]),
        ({"part": {"count": 2}}, ["part: 'rate' is missing", "count, rate"]),
        ({"part": {"count": 2, "rate": 1, "rat": 1}}, ["part: 'rat' is not", "count, rate"]),
        ({"part": {"count": 2, "rate": math.nan}}, ["part: rate", "nan"]),
        ({"part": {"count": 2, "rate": "1e-3"}}, ["part: rate", "'1e-3'"]),
        ({"part": 3}, ["part", "3"]),
        ({"part": None}, ["part", "None"]),
        ({"shares": [0, 1.5]}, ["shares: 1", "1.5", "equal to 1"]),
        ({"shares": []}, ["shares", "[]"]),
        ({"shares": 0.5}, ["shares", "0.5", "list"]),
        ({"flag": "no"}, ["flag", "'no'", "boolean"]),
        ({"seed": -1}, ["seed", "-1", "equal to 0"]),
        ({"title": "a/b"}, ["title", "'a/b'", "letters"]),
        ({"title": 3}, ["title", "3", "string"]),
        ({"parts": "a++b"}, ["parts", "'a++b'"]),
        ({"other": 1}, ["'other' is not a setting", "flag, part"]),
    ],
)
def test_what_does_not_fit_is_one_line(refuses, change, said):
    refuses(lambda: fit(Whole, GOOD | change, "x.yaml"), "x.yaml", *said)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a/b", "/a", "a b", "a{b}", "a\n", "-a", "é", "true", "yes", "on", "off",
     "null", "1", "1.5", "1e3", "0x1f", "1_000", "a+b", "~", "a\\b", "a:b", "2026-01-01"],
)  # fmt: skip
def test_what_is_no_name(refuses, text):
    refuses(lambda: name(text), "name")


@given(text=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True))
def test_a_name_comes_back_from_yaml_as_it_is(text):
    try:
        name(text)
    except ValueError:
        return
    assert YAML(typ="safe", pure=True).load(text) == text
