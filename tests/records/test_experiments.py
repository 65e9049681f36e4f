"""Records of experiments: tables with axes of their own, pictures, whole numbers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib import records
from lib.records.provenance import ROOT
from lib.records.tables import RecordError, collect, every, read, read_file, select, write
from tests.records.test_tables import row

AXES = ["n", "seed"]
LARGEST = 65_536  # bytes of a picture


@pytest.fixture(autouse=True)
def results(house):
    return house("experiments") / "results"


def flip(n=10, seed=0, value=0.5, **more):
    """A row of a coin that was tossed n times."""
    own = {"profile", "dataset", "network", "augmentation", "p", "attack", "eps"}
    shared = {name: given for name, given in row(table="coin").items() if name not in own}
    del shared["centre"]
    return shared | {"profile": "coin", "n": n, "seed": seed, "value": value} | more


def file_of(path, *rows, axes=AXES):
    write(rows, path, axes=axes)
    return path


def whole_file(path):
    return {path.name: path.read_bytes() for path in sorted(path.parent.iterdir())}


# Axes


@given(cells=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, unique=True))
def test_an_experiments_table_is_a_dictionary_of_its_cells(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        files = [file_of(folder / f"{n}-{seed}.parquet", flip(n, seed, n / (seed + 1)))
                 for n, seed in cells]  # fmt: skip
        collect("coin", files[1:] or files)
        collect("coin", files[:1], keep=True)
        found = read("coin", "coin")
    assert records.axes_of(found) == AXES
    assert found.set_index(AXES).value.to_dict() == {(n, s): n / (s + 1) for n, s in cells}
    assert found[AXES].values.tolist() == sorted(map(list, cells))


@pytest.mark.parametrize("kind", [{"n": "few"}, {"n": 0.5}, {"n": 3}])
def test_an_axis_holds_words_or_numbers(tmp_path, kind):
    collect("coin", [file_of(tmp_path / "a.parquet", flip(**kind))])
    (found,) = read("coin", "coin").n.tolist()
    assert (found, type(found)) == (kind["n"], type(kind["n"]))


@pytest.mark.parametrize("lost", ["n", "seed", "code", "settings", "data"])
def test_one_row_of_many_without_its_cell_or_version_is_not_written(tmp_path, refuses, lost):
    """Such a row would be collected, and by `read` left out without a word."""
    short = {name: given for name, given in flip(20).items() if name != lost}
    path = tmp_path / "a.parquet"
    refuses(lambda: file_of(path, flip(10), short), lost, path, error=RecordError)
    assert not path.exists()


def test_a_grid_of_other_axes_leaves_the_tables_as_they_were(tmp_path, results, refuses):
    collect("coin", [file_of(tmp_path / "a.parquet", flip())])
    before = whole_file(results / "coin" / "coin.parquet")
    other = file_of(tmp_path / "b.parquet", flip(bias=0.5), axes=["bias", *AXES])
    refuses(lambda: collect("coin", [other], keep=True), "'coin'", "n, seed", "bias, n, seed",
            error=RecordError)  # fmt: skip
    assert whole_file(results / "coin" / "coin.parquet") == before
    # Where nothing of the old grid is kept, there is nothing that it would be read with.
    collect("coin", [other], keep=lambda table, rows: rows.seed > 0)
    assert records.axes_of(read("coin", "coin")) == ["bias", *AXES]


def test_rows_are_kept_as_a_function_of_table_and_rows_says(tmp_path):
    first = [flip(n, table=table) for n in (1, 2, 3) for table in ("coin", "dice")]
    collect("coin", [file_of(tmp_path / "a.parquet", *first)])
    asked = []

    def keep(table, rows):
        asked.append(table)
        return rows.n >= {"coin": 2, "dice": 3}[table]

    collect("coin", [file_of(tmp_path / "b.parquet", flip(9))], keep=keep)
    assert sorted(asked) == ["coin", "dice"]
    assert every("coin", "coin").n.tolist() == [2, 3, 9]
    assert every("coin", "dice").n.tolist() == [3]


def test_a_cell_that_was_measured_again_brings_all_its_rows(tmp_path):
    """Of the table that it brings, of its own code, settings and data; else nothing is lost."""
    sides = [flip(side=side, value=0.1) for side in ("heads", "tails")]
    others = [flip(side="tails", value=0.2, **{name: "0ther"})
              for name in ("code", "settings", "data")]  # fmt: skip
    others += [flip(11, side="tails", value=0.2), flip(seed=1, side="tails", value=0.2),
               flip(table="dice", value=0.2)]  # fmt: skip
    collect("coin", [file_of(tmp_path / "a.parquet", *sides, *others)])
    collect("coin", [file_of(tmp_path / "b.parquet", flip(side="heads", value=0.9))], keep=True)
    found = pd.concat([every("coin", "coin"), every("coin", "dice")])
    assert sorted(found.value) == [0.2] * 6 + [0.9]


def test_of_an_experiment_settings_are_chosen_as_a_whole(tmp_path):
    rows = [flip(n, settings="many") for n in (1, 2)] + [flip(3, settings="few")]
    collect("coin", [file_of(tmp_path / "a.parquet", *rows)])
    found, words = select("coin", "coin")
    assert found.n.tolist() == [1, 2]
    assert words == "points left out: 1 with settings few"


# Pictures

PICTURES = arrays(np.uint8, st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple))


@given(pictures=st.lists(st.none() | PICTURES, min_size=1, max_size=5))
def test_pictures_come_back_bit_for_bit(tmp_path_factory, pictures):
    """Of any shape, beside rows that have none; through files, tables, and tables kept."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = [flip(k) if picture is None else flip(k, seen=picture)
            for k, picture in enumerate(pictures)]  # fmt: skip
    path = file_of(folder / "a.parquet", *rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        collect("coin", [path])
        collect("coin", [file_of(folder / "b.parquet", flip(99))], keep=True)
        frames = read_file(path), read("coin", "coin")
    for frame in frames:
        if all(picture is None for picture in pictures):
            assert "seen" not in frame
            continue
        back = frame.set_index("n").seen
        assert back.get(99) is None
        for k, picture in enumerate(pictures):
            if picture is None:
                assert back[k] is None
            else:
                assert (back[k].shape, back[k].dtype) == (picture.shape, np.uint8)
                assert back[k].tobytes() == picture.tobytes()


def test_a_picture_turned_around_is_written_as_it_looks(tmp_path):
    """Not as it lies in memory."""
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for turned in (picture.T, picture[:, ::-1], np.asfortranarray(picture)):
        path = file_of(tmp_path / "a.parquet", flip(seen=turned))
        np.testing.assert_array_equal(read_file(path).seen[0], turned)


def test_a_picture_of_a_cell_that_was_measured_again_is_the_new_one(tmp_path):
    old, new = np.zeros(4, np.uint8), np.ones((2, 3), np.uint8)
    collect("coin", [file_of(tmp_path / "a.parquet", flip(seen=old), flip(11, seen=old))])
    collect("coin", [file_of(tmp_path / "b.parquet", flip(seen=new))], keep=True)
    for found, wanted in zip(every("coin", "coin").seen, (new, old), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_csv_is_the_table_without_its_pictures(tmp_path, results):
    seen = np.arange(9, dtype=np.uint8).reshape(3, 3)
    collect("coin", [file_of(tmp_path / "a.parquet", flip(10, seen=seen), flip(11))])
    table = every("coin", "coin")
    text = {name: str for name in table if not pd.api.types.is_numeric_dtype(table[name])}
    csv = pd.read_csv(results / "coin" / "coin.csv", dtype=text)
    assert set(table) - set(csv) == {"seen"}
    pd.testing.assert_frame_equal(csv, table.drop(columns="seen"), check_dtype=False)


def test_a_picture_may_have_the_most_bytes_and_no_more(tmp_path, refuses):
    """What was there before stays as it was."""
    largest = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    path = file_of(tmp_path / "a.parquet", flip(seen=largest))
    np.testing.assert_array_equal(read_file(path).seen[0], largest)
    before = whole_file(path)
    for picture in (np.append(largest, largest[0, 0]), np.zeros((3, 257, 257), np.uint8),
                    largest.astype(np.int8), largest[:2] / 255, largest[:2] > 7):  # fmt: skip
        refuses(lambda seen=picture: file_of(path, flip(9), flip(seen=seen)), path, "seen", "uint8",
                LARGEST, picture.dtype, picture.nbytes, error=RecordError)  # fmt: skip
        assert whole_file(path) == before


@pytest.mark.parametrize("other", [7, 0.5, "black", [1, 2]])
def test_what_is_no_picture_among_pictures_is_refused_not_lost(tmp_path, refuses, other):
    seen = np.zeros((2, 2), np.uint8)
    path = tmp_path / "a.parquet"
    refuses(lambda: file_of(path, flip(1, seen=seen), flip(2, seen=other)), "seen",
            error=RecordError)  # fmt: skip


def test_a_picture_for_a_value_is_refused_in_one_line(tmp_path, refuses):
    """A number is what a value is; a picture has a column of its own."""
    seen = np.zeros((4, 4), np.uint8)
    refuses(lambda: file_of(tmp_path / "a.parquet", flip(value=seen)), "value must be numbers",
            error=RecordError)  # fmt: skip


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_record_with_a_picture_is_named(tmp_path_factory, refuses, share):
    path = tmp_path_factory.mktemp("cut") / "a.parquet"
    file_of(path, flip(seen=np.arange(50, dtype=np.uint8).reshape(5, 10)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuses(lambda: read_file(path), path, error=RecordError)


# Whole numbers

WHOLE = st.integers(-(2**53), 2**53)


@given(given_values=st.lists(st.none() | WHOLE, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_whole_numbers_come_back_whole(tmp_path_factory, given_values, cut):
    """In one file or in two, some without the column; exact, and missing where they are."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [flip(k) if value is None else flip(k, tosses=value)
            for k, value in enumerate(given_values)]  # fmt: skip
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        collect("coin", [file_of(folder / f"{k}.parquet", *p) for k, p in enumerate(parts)])
        found = read("coin", "coin")
    assert found.n.dtype == "int64"
    there = [value for value in given_values if value is not None]
    if not there:
        assert "tosses" not in found
        return
    assert found.tosses.dtype == ("Int64" if len(there) < len(rows) else "int64")
    assert [None if pd.isna(v) else v for v in found.tosses.tolist()] == given_values


def test_large_whole_numbers_are_exact_beside_missing_ones(tmp_path):
    path = file_of(tmp_path / "a.parquet", flip(1, tosses=2**53 + 1), flip(2))
    assert read_file(path).tosses[0] == 2**53 + 1


def test_what_is_not_always_whole_is_no_whole_number(tmp_path):
    """One row with a half, or truth values, and a column is none of whole numbers."""
    rows = [flip(1, side=1, fair=True), flip(2, side=0.5, fair=False), flip(3, side=2, fair=True)]
    collect("coin", [file_of(tmp_path / f"{k}.parquet", r) for k, r in enumerate(rows)])
    found = read("coin", "coin")
    assert (found.side.dtype, found.fair.dtype) == ("float64", "bool")
    assert found.side.tolist() == [1, 0.5, 2]
    assert found.value.dtype == "float64"


def test_a_row_of_a_measure_has_a_value_in_floats():
    found = records.row("coin", "mean", 1, 10, side="heads")
    assert found == {"table": "coin", "measure": "mean", "side": "heads", "value": 1.0,
                     "examples": 10}  # fmt: skip
    assert type(found["value"]) is float


# Where they lie


def test_runs_and_results_are_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS", str(tmp_path / "there"))
    assert records.runs() == tmp_path / "there"
    for name, at in {"RUNS": records.runs, "RESULTS": records.results}.items():
        monkeypatch.delenv(name)
        assert at() == ROOT / name.lower()
