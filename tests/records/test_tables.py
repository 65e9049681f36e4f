import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import records
from lib.records.tables import LeftOut, RecordError, collect, every, read, read_file, select, write

KEY = ["table", "augmentation", "p", "seed", "attack", "eps", "centre", "code", "settings"]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The folder of the collected tables, empty, for each test."""
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def row(value=0.5, *, table="performance", p=0.5, seed=0, code="c0de", settings="5e77", **more):
    own = {"attack": "pgd", "eps": 0.25} if table == "performance" else {"centre": "clean"}
    return {
        "profile": "digits", "dataset": "digits", "network": "small_cnn",
        "augmentation": "mixup", "p": p, "seed": seed, "table": table, "measure": "risk",
        "code": code, "settings": settings, "data": "da7a", "commit": "c0", "python": "3",
        "torch": "2", "device": "cpu", "value": value, "examples": 10,
    } | own | more  # fmt: skip


def point_file(path, *rows):
    write(rows, path)
    return path


def values(table="performance", *by):
    frame = read("digits", table)
    return frame.set_index(list(by))["value"].to_dict() if by else frame["value"].tolist()


# One file


FLOATS = st.floats(width=64)


@given(
    rows=st.lists(
        st.builds(
            row, FLOATS, p=st.floats(0, 1), seed=st.integers(0, 2**40), attack=st.text(max_size=5)
        ),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_what_was_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("records") / "a" / "point.parquet"
    for given_rows in (rows, pd.DataFrame(rows)):
        write(given_rows, path)
        back = read_file(path)
        assert len(back) == len(rows)
        for name in rows[0]:
            wanted = [line[name] for line in rows]
            if name == "value":
                np.testing.assert_array_equal(back[name], wanted)  # NaN and infinities too
            else:
                assert back[name].tolist() == wanted


def test_tables_of_different_columns_share_a_file(tmp_path):
    path = point_file(tmp_path / "a.parquet", row(0.1), row(0.2, table="stress"))
    back = read_file(path)
    assert back["value"].tolist() == [0.1, 0.2]
    assert back["centre"].isna().tolist() == [True, False]


@pytest.mark.parametrize("lost", ["p", "value", "code", "device", "seed"])
def test_a_row_without_its_point_value_or_provenance_is_not_written(tmp_path, refuses, lost):
    path = tmp_path / "a.parquet"
    rows = [{name: value for name, value in row().items() if name != lost}]
    refuses(lambda: write(rows, path), lost, path, error=RecordError)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written_when_writing_fails(tmp_path, monkeypatch):
    path = point_file(tmp_path / "a.parquet", row(0.1))

    def breaks(table, where, *_, **__):
        where.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", breaks)
    with pytest.raises(OSError, match="No space"):
        write([row(0.2)], path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]
    assert read_file(path)["value"].tolist() == [0.1]


def test_a_real_limit_in_the_middle_of_a_table_leaves_the_old_one(tmp_path):
    """The kernel refuses what a file holds beyond 20,000 bytes."""
    path = point_file(tmp_path / "a.parquet", row(0.1))
    script = f"""
import resource, signal, numpy, pandas
from lib import records
frame = pandas.concat([records.read_file({str(path)!r})] * 4_000, ignore_index=True)
frame["value"] = numpy.random.default_rng(0).random(len(frame))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
records.write(frame, {str(path)!r})
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode
    assert "File too large" in run.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]
    assert read_file(path)["value"].tolist() == [0.1]


# Damaged and foreign files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.parquet"
    write([row(k / 7, seed=k, table="stress") for k in range(20)], path)
    return path.read_bytes()


def foreign(path):
    pd.DataFrame({"a": [1.0], "value": [2.0]}).to_parquet(path)


def empty_table(path):
    frame = pd.DataFrame([row()]).iloc[:0]
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)


NOT_RECORDS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("p,seed,value\n0,0,1\n"),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)),
    "marks only": lambda path: path.write_bytes(b"PAR1PAR1"),
    "noise": lambda path: path.write_bytes(b"PAR1" + bytes(range(256)) * 4 + b"PAR1"),
    "foreign": foreign,
    "no rows": empty_table,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", NOT_RECORDS.values(), ids=NOT_RECORDS)
def test_what_is_no_record_is_named(tmp_path, refuses, make):
    path = tmp_path / "strange.parquet"
    make(path)
    refuses(lambda: read_file(path), path, error=RecordError)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_record_is_named(tmp_path_factory, refuses, whole, share):
    path = tmp_path_factory.mktemp("cut") / "cut.parquet"
    path.write_bytes(whole[: int(share * len(whole))])
    refuses(lambda: read_file(path), path, error=RecordError)


def test_a_record_with_a_wrong_byte_is_named_or_still_a_record(tmp_path, whole):
    """All errors that the damage leads to are RecordErrors of one line that name the file."""
    path, rng = tmp_path / "flipped.parquet", np.random.default_rng(0)
    escaped = set()
    for _ in range(400):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            read_file(path)
        except RecordError as error:
            if str(path) not in str(error):
                escaped.add("does not name the file")
            if "\n" in str(error):
                escaped.add("more than one line")
        except Exception as error:
            escaped.add(type(error).__name__)
    assert escaped == set()


# Collected tables


def test_a_table_not_recorded_says_how_to_record_it(results):
    for table in ("performance", "cost"):
        with pytest.raises(FileNotFoundError, match="make sweep PROFILE=digits") as caught:
            read("digits", table)
        assert table in str(caught.value)
        assert "\n" not in str(caught.value)
    assert records.profiles() == []


def test_collect_makes_one_table_of_each_kind(tmp_path, results):
    files = [
        point_file(tmp_path / f"{seed}.parquet", row(seed / 10, seed=seed),
                   row(seed, table="stress", seed=seed))
        for seed in (2, 0, 1)
    ]  # fmt: skip
    collect("digits", files)
    assert values("performance", "seed") == {0: 0.0, 1: 0.1, 2: 0.2}
    assert values("stress", "seed") == {0: 0, 1: 1, 2: 2}
    # A table has its own columns only.
    assert "centre" not in read("digits", "performance")
    assert "attack" not in read("digits", "stress")
    assert records.profiles() == ["digits"]
    assert sorted(path.name for path in (results / "digits").iterdir()) == [
        "performance.csv", "performance.parquet", "stress.csv", "stress.parquet",
    ]  # fmt: skip


def test_a_table_does_not_depend_on_the_order_of_files(tmp_path, results):
    files = [point_file(tmp_path / f"{seed}", row(seed=seed), row(seed=seed, table="stress"))
             for seed in range(5)]  # fmt: skip
    collect("digits", files)
    first = {path.name: path.read_bytes() for path in (results / "digits").iterdir()}
    collect("digits", files[::-1])
    assert first == {path.name: path.read_bytes() for path in (results / "digits").iterdir()}


def test_the_same_row_counts_once_and_the_later_file_wins(tmp_path):
    old = point_file(tmp_path / "1", row(0.1), row(0.7, seed=1))
    new = point_file(tmp_path / "2", row(0.2, device="gpu", commit="c1", examples=11))
    collect("digits", [old, new, new])
    assert values("performance", "seed") == {0: 0.2, 1: 0.7}
    frame = read("digits", "performance").set_index("seed")
    assert frame.loc[0, ["device", "commit", "examples"]].tolist() == ["gpu", "c1", 11]
    collect("digits", [new, old])
    assert values("performance", "seed") == {0: 0.1, 1: 0.7}


@pytest.mark.parametrize(
    "difference",
    [{"low": 0.15, "high": 0.5}, {"limit": 0.02}, {"warning": True},
     {"low": float("nan"), "high": float("nan"), "limit": 0.5, "warning": False}],
)  # fmt: skip
@pytest.mark.parametrize("keep", [False, True])
def test_an_interval_and_a_judgement_are_of_the_value_not_of_the_row(tmp_path, difference, keep):
    beside = {"low": 0.05, "high": 0.3, "limit": 0.01, "warning": False}
    one = point_file(tmp_path / "1", row(0.1, **beside), row(0.6, seed=1, **beside))
    other = point_file(tmp_path / "2", row(0.2, **beside | difference))
    if keep:
        collect("digits", [one])
    collect("digits", [other] if keep else [one, other], keep=keep)
    frame = read("digits", "performance").set_index("seed")
    assert frame["value"].to_dict() == {0: 0.2, 1: 0.6}
    for name, value in (beside | difference).items():
        np.testing.assert_array_equal(frame.loc[0, name], value)
        assert frame.loc[1, name] == beside[name]


def test_what_is_beside_the_value_comes_and_goes(tmp_path):
    """Of rows recorded before there were intervals, and of tables that have none."""
    old = point_file(tmp_path / "1", row(0.1), row(0.3, table="stress"))
    new = point_file(
        tmp_path / "2", row(0.2, warning=True, limit=0.1), row(0.4, table="stress", low=0.3, high=1)
    )
    collect("digits", [old, new])
    assert values() == [0.2]
    assert values("stress") == [0.4]
    assert read("digits", "performance")["warning"].tolist() == [True]
    assert "low" not in read("digits", "performance")
    assert "warning" not in read("digits", "stress")
    collect("digits", [new, old])
    assert values() == [0.1]
    assert values("stress") == [0.3]
    assert not {"low", "high", "limit", "warning"} & {*read("digits", "stress")}


@pytest.mark.parametrize(
    "difference",
    [{"p": 0.25}, {"seed": 1}, {"eps": 0.5}, {"attack": "fgsm"}, {"measure": "error"},
     {"augmentation": "classic"}, {"code": "0ther"}, {"settings": "0ther"}],
)  # fmt: skip
def test_rows_of_another_point_setting_or_version_are_kept_apart(tmp_path, difference):
    one = point_file(tmp_path / "1", row(0.1))
    other = point_file(tmp_path / "2", row(0.2) | difference)
    collect("digits", [one, other])
    assert sorted(every("digits", "performance")["value"]) == [0.1, 0.2]


@given(
    files=st.lists(
        st.lists(
            st.builds(
                row, st.floats(0, 1), table=st.sampled_from(["performance", "stress"]),
                p=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 1),
                code=st.sampled_from(["c0de", "0ther"]),
            ),
            min_size=1, max_size=5,
        ),
        min_size=1, max_size=4,
    ),
    kept=st.integers(0, 3),
)  # fmt: skip
def test_collect_is_a_dictionary_of_keys(tmp_path_factory, files, kept):
    """Against a dictionary that is updated file by file, with the first ones collected before."""
    folder = tmp_path_factory.mktemp("any")
    paths = [point_file(folder / f"{n}.parquet", *rows) for n, rows in enumerate(files)]
    kept = min(kept, len(files) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        if kept:
            collect("digits", paths[:kept])
        collect("digits", paths[kept:], keep=True)
        tables = [every("digits", t).assign(table=t) for t in
                  sorted({line["table"] for rows in files for line in rows})]  # fmt: skip
    wanted = {
        tuple(line.get(name, None) for name in KEY): line["value"]
        for rows in files for line in rows
    }  # fmt: skip
    found = pd.concat(tables).reindex(columns=[*KEY, "value"]).astype(object)
    found = found.where(found.notna(), None)
    assert len(found) == len(wanted)
    assert {tuple(line[:-1]): line[-1] for line in found.itertuples(index=False)} == wanted


def test_keep_merges_with_what_was_collected(tmp_path):
    collect("digits", [point_file(tmp_path / "1", row(0.1), row(0.2, seed=1),
                                  row(0.3, table="stress"))])  # fmt: skip
    new = point_file(tmp_path / "2", row(0.4, seed=1), row(0.5, seed=2))
    collect("digits", [new], keep=True)
    assert values("performance", "seed") == {0: 0.1, 1: 0.4, 2: 0.5}
    assert values("stress") == [0.3]
    collect("digits", [], keep=True)  # nothing new is no error
    assert values("performance", "seed") == {0: 0.1, 1: 0.4, 2: 0.5}
    collect("digits", [new])  # and without keep, what was there goes
    assert values("performance", "seed") == {1: 0.4, 2: 0.5}


def test_columns_stand_in_one_order_whatever_is_collected_first(tmp_path, results):
    """A profile that keeps its tables would else change them all with one more point."""
    one, other = row(attack="pgd", eps=0.5), row(table="stress", eps=0.5, centre="clean", low=0.1)
    found = []
    for number, order in enumerate(((one, other), (other, one))):
        files = [point_file(tmp_path / f"{number}-{k}.parquet", r) for k, r in enumerate(order)]
        records.collect("study", files)
        found.append(
            [list(records.read("study", name).columns) for name in ("performance", "stress")]
        )
    assert found[0] == found[1]


def test_collecting_again_changes_nothing(tmp_path, results):
    file = point_file(tmp_path / "1", row(0.1), row(float("nan"), seed=1), row(1, table="stress"))
    collect("digits", [file])
    before = {path.name: path.read_bytes() for path in (results / "digits").iterdir()}
    for keep in (True, False):
        collect("digits", [file], keep=keep)
        assert before == {p.name: p.read_bytes() for p in (results / "digits").iterdir()}


def test_missing_values_stay_missing(tmp_path):
    """Even where every value of a table is missing: a cell is missing, never gone."""
    file = point_file(tmp_path / "1", row(float("nan")), row(float("nan"), seed=1),
                      row(0.5, table="stress"))  # fmt: skip
    collect("digits", [file])
    frame = read("digits", "performance")
    assert frame["seed"].tolist() == [0, 1]
    assert frame["value"].isna().all()


@pytest.mark.parametrize("make", NOT_RECORDS.values(), ids=NOT_RECORDS)
def test_collect_names_what_is_damaged_and_leaves_it_out(tmp_path, make):
    good = point_file(tmp_path / "good.parquet", row(0.1))
    bad = tmp_path / "bad.parquet"
    make(bad)
    with pytest.warns(UserWarning, match=str(bad)) as caught:
        collect("digits", [bad, good])
    assert len(caught) == 1
    assert values() == [0.1]


def test_nothing_to_collect(tmp_path, results):
    with pytest.raises(FileNotFoundError, match="digits"):
        collect("digits", [])
    bad = tmp_path / "bad.parquet"
    bad.write_text("no")
    with pytest.warns(UserWarning, match="bad"), pytest.raises(FileNotFoundError, match="digits"):
        collect("digits", [bad])
    assert not results.exists()


def test_whole_files_bring_no_warning(tmp_path):
    files = [point_file(tmp_path / "1", row(0.1)), point_file(tmp_path / "2", row(2, table="cost"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collect("digits", files)
        collect("digits", files, keep=True)


def test_a_damaged_table_stops_a_merge_instead_of_being_lost(tmp_path, results):
    file = point_file(tmp_path / "1", row(0.1))
    collect("digits", [file])
    path = results / "digits" / "performance.parquet"
    path.write_bytes(path.read_bytes()[:100])
    before = path.read_bytes()
    with pytest.raises(RecordError, match=str(path)):
        collect("digits", [point_file(tmp_path / "2", row(0.2, seed=1))], keep=True)
    assert path.read_bytes() == before


def test_the_csv_equals_the_table(tmp_path, results):
    rng = np.random.default_rng(0)
    rows = [row(float(v), seed=k) for k, v in enumerate(rng.standard_normal(30) * 1e-3)]
    rows += [row(float("nan"), seed=99), row(1 / 3, p=0.1 + 0.2, device='a "cpu", one thread')]
    collect("digits", [point_file(tmp_path / "1", *rows)])
    frame = read("digits", "performance")
    text = {name: str for name in frame if not pd.api.types.is_numeric_dtype(frame[name])}
    csv = pd.read_csv(results / "digits" / "performance.csv", dtype=text)
    assert csv.columns.tolist() == frame.columns.tolist()
    pd.testing.assert_frame_equal(csv, frame, check_dtype=False, check_exact=True)


def test_tables_are_read_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "one"))
    collect("digits", [point_file(tmp_path / "1", row(0.1))])
    monkeypatch.setenv("RESULTS", str(tmp_path / "two"))
    assert records.profiles() == []
    assert not os.path.exists(tmp_path / "two")
    monkeypatch.setenv("RESULTS", str(tmp_path / "one"))
    assert values() == [0.1]


# Several versions in one profile


def collected(tmp_path, *rows, profile="digits"):
    collect(profile, [point_file(tmp_path / "rows.parquet", *rows)])


def points(frame):
    return sorted(zip(frame.code, frame.seed, strict=True))


def test_one_version_is_read_without_a_word(tmp_path):
    rows = [row(settings=name, augmentation=name, seed=seed) for name in "abc" for seed in (0, 1)]
    collected(tmp_path, *rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = read("digits", "performance")
    pd.testing.assert_frame_equal(frame, every("digits", "performance"))
    assert select("digits", "performance")[1] == ""


def test_the_version_with_the_most_points_is_read_and_the_others_are_named(tmp_path):
    many = [row(seed=seed, code="many", eps=eps) for seed in range(3) for eps in (0.25, 0.5)]
    few = [row(seed=seed, code="few", eps=eps) for seed in (2, 3) for eps in range(9)]  # more rows
    one = [row(seed=9, code="one")]
    collected(tmp_path, *few, *many, *one)
    with pytest.warns(LeftOut) as caught:
        frame = read("digits", "performance")
    assert set(frame.code) == {"many"}
    assert len(frame) == 6
    (warning,) = caught
    assert warning.filename == __file__
    said = str(warning.message)
    assert "\n" not in said
    for part in ("performance", "digits", "engine many", "2 of engine few", "1 of engine one"):
        assert part in said
    assert frame.columns.tolist() == every("digits", "performance").columns.tolist()


def test_another_version_is_read_by_its_code(tmp_path, refuses):
    collected(tmp_path, *(row(seed=k, code="many") for k in range(3)), row(code="few"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was asked for
        assert points(read("digits", "performance", code="few")) == [("few", 0)]
    refuses(lambda: read("digits", "performance", code="none"), "none", "few", "many")


@given(
    cells=st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1),
    shuffle=st.randoms(use_true_random=False),
)
def test_which_version_is_read_does_not_depend_on_the_order_of_rows(
    tmp_path_factory, cells, shuffle
):
    cells, found = sorted(cells), []
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):
            folder = tmp_path_factory.mktemp("any")
            patch.setenv("RESULTS", str(folder))
            shuffle.shuffle(cells)
            write(
                [row(code=code, seed=seed) for code, seed in cells],
                folder / "x/performance.parquet",
            )
            found.append(points(select("x", "performance")[0]))
    assert found[0] == found[1]
    ((code,),) = {tuple({name for name, _ in found[0]})}
    sizes = {name: sum(code == name for code, _ in cells) for name in "abc"}
    assert sizes[code] == len(found[0]) == max(sizes.values())
    assert code == min(name for name in "abc" if sizes[name] == sizes[code])


def test_each_table_is_read_of_the_version_that_has_most_of_it(tmp_path):
    """A measure that was made anew leaves the others as they are."""
    many = [row(0.1, seed=s, code="many") for s in range(3)]
    few = [row(0.2, seed=s, code="few", table="stress") for s in range(2)]
    collect("digits", [point_file(tmp_path / "a.parquet", *many, *few)])
    assert set(read("digits", "performance").code) == {"many"}
    assert set(read("digits", "stress").code) == {"few"}


def test_costs_are_read_of_the_version_that_has_most_of_a_stage(tmp_path):
    rows = [
        row(1.0, table="cost", seed=s, stage="train", code="old", settings="a") for s in range(3)
    ]
    rows += [
        row(2.0, table="cost", seed=s, stage="stress", code="new", settings="b") for s in range(2)
    ]
    rows += [row(9.0, table="cost", seed=0, stage="stress", code="old", settings="c")]
    collect("digits", [point_file(tmp_path / "a.parquet", *rows)])
    found, words = select("digits", "cost")
    assert sorted(zip(found.stage, found.code, strict=True)) == [
        ("stress", "new"),
        ("stress", "new"),
        *[("train", "old")] * 3,
    ]
    assert "1 of engine old" in words


def test_settings_are_compared_for_each_augmentation(tmp_path):
    rows = [row(augmentation="none", p=0, settings="n", seed=k) for k in range(3)]
    rows += [row(settings="old", seed=k) for k in range(2)]
    rows += [row(settings="new", seed=k) for k in range(3)]
    rows += [row(augmentation="classic", settings="c", seed=0)]
    collected(tmp_path, *rows)
    with pytest.warns(LeftOut, match="2 of mixup with settings old") as caught:
        frame = read("digits", "performance")
    assert len(caught) == 1
    found = frame.groupby("augmentation").settings.unique().map(list).to_dict()
    assert found == {"none": ["n"], "mixup": ["new"], "classic": ["c"]}


def declare(results, text):
    results.mkdir(exist_ok=True)
    (results / "versions.yaml").write_text(text)


def test_versions_declared_to_give_the_same_are_read_together(tmp_path, results):
    rows = [row(0.1, seed=0, code="1234"), row(0.1, seed=0, code="1234", eps=0.5)]
    rows += [row(0.2, seed=k, code="5678") for k in (0, 1)]
    rows += [row(0.3, seed=k, code="other") for k in (0, 1)]
    collected(tmp_path, *rows)
    declare(results, "- codes: [5678, 1234]  # digits alone are a code as well\n  reason: speed\n")
    with pytest.warns(LeftOut, match="engine 1234 = 5678 .* 2 of engine other"):
        frame = read("digits", "performance")
    # The point that both have made counts once, whole, as the one with more points made it.
    assert frame[["code", "seed", "value"]].values.tolist() == [["5678", 0, 0.2], ["5678", 1, 0.2]]
    collected(tmp_path, *rows, row(0.4, seed=2, code="1234"))
    with pytest.warns(LeftOut, match="2 of engine other"):
        frame = read("digits", "performance")
    assert not frame.duplicated(["p", "seed", "eps"]).any()
    assert set(frame.seed) == {0, 1, 2}
    for code in ("1234", "5678"):
        assert set(select("digits", "performance", code=code)[0].seed) == {0, 1, 2}
    declare(results, "# nothing\n")
    with pytest.warns(LeftOut):
        assert read("digits", "performance").code.nunique() == 1


@pytest.mark.parametrize(
    "text",
    ["a: [", "codes: [a, b]", "- codes: [a, b]", "- {codes: [a, b], reason: ''}", "- [a, b]",
     "- {codes: a, reason: b}", "- {codes: [[a]], reason: b}", "- {codes: [], reason: b}",
     "just words", "- {codes: [a, b], reason: c}\n- {codes: [b, d], reason: e}",
     "- {codes: [a, a], reason: b}", "- {codes: [a], reason: b, more: c}"],
)  # fmt: skip
def test_a_bad_declaration_is_named(tmp_path, results, refuses, text):
    collected(tmp_path, row())
    declare(results, text)
    refuses(lambda: read("digits", "performance"), results / "versions.yaml", error=RecordError)


def test_both_versions_stay_in_the_tables(tmp_path):
    collected(tmp_path, row(0.1, code="old"), row(0.1, seed=1, code="old"))
    collect("digits", [point_file(tmp_path / "new", row(0.2, code="new"))], keep=True)
    assert points(every("digits", "performance")) == [("new", 0), ("old", 0), ("old", 1)]


def test_a_point_that_was_measured_again_brings_all_its_rows(tmp_path):
    """Rows that it had and has no more are gone; those of other points and versions are not."""
    first = [row(0.1, eps=0.25), row(0.2, eps=0.5), row(0.3, seed=1), row(0.4, code="0ther")]
    collect("digits", [point_file(tmp_path / "a.parquet", *first)])
    collect("digits", [point_file(tmp_path / "b.parquet", row(0.9, eps=0.5))], keep=True)
    found = every("digits", "performance")
    cells = sorted(zip(found.seed, found.eps, found.code, found.value, strict=True))
    assert cells == [(0, 0.25, "0ther", 0.4), (0, 0.5, "c0de", 0.9), (1, 0.25, "c0de", 0.3)]
    # Of costs a stage is what was measured again.
    costs = [row(1.0, table="cost", stage=stage) for stage in ("train", "stress")]
    collect("digits", [point_file(tmp_path / "c.parquet", *costs)], keep=True)
    again = row(5.0, table="cost", stage="stress")
    collect("digits", [point_file(tmp_path / "d.parquet", again)], keep=True)
    assert sorted(every("digits", "cost").value) == [1.0, 5.0]


# Tables of an experiment, with axes of its own, and pictures


def flips(n, seed, value=0.5, **more):
    shared = {name: value for name, value in row().items()
              if name in (*records.tables.PROVENANCE, "examples")}  # fmt: skip
    return {"profile": "coin", "n": n, "seed": seed, "table": "coin", "measure": "mean",
            **shared, "value": value, **more}  # fmt: skip


AXES = ["n", "seed"]


def test_a_table_has_the_axes_that_it_was_written_with(tmp_path):
    path = tmp_path / "a.parquet"
    write([flips(10, 0), flips(10, 1, 0.25)], path, axes=AXES)
    assert records.axes_of(read_file(path)) == AXES
    collect("coin", [path])
    found = read("coin", "coin")
    assert records.axes_of(found) == AXES
    assert found.n.dtype == "int64"
    # A version is told by cells of these axes.
    write([flips(n, 0, code="new") for n in (10, 20, 30)], tmp_path / "b.parquet", axes=AXES)
    collect("coin", [path, tmp_path / "b.parquet"])
    found, words = select("coin", "coin")
    assert set(found.code) == {"new"}
    assert "2 of engine c0de" in words


def test_a_row_without_an_axis_is_not_written(tmp_path, refuses):
    row = {name: value for name, value in flips(10, 0).items() if name != "n"}
    refuses(lambda: write([row], tmp_path / "a.parquet", axes=AXES), "axis n", error=RecordError)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_other_axes_are_not_collected_together(tmp_path, refuses, results):
    write([flips(10, 0)], tmp_path / "a.parquet", axes=AXES)
    write([flips(10, 0)], tmp_path / "b.parquet", axes=["seed", "n"])
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    refuses(lambda: collect("coin", files), "'coin'", "n, seed and seed, n", error=RecordError)
    assert not results.exists()


def test_pictures_are_read_as_they_were_written(tmp_path, results):
    rng = np.random.default_rng(0)
    shown = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in [(3, 5, 7), (64,), (1, 1)]]
    rows = [flips(n, 0, seen=picture) for n, picture in enumerate(shown)] + [flips(9, 0)]
    write(rows, tmp_path / "a.parquet", axes=AXES)
    collect("coin", [tmp_path / "a.parquet"])
    for found in (read_file(tmp_path / "a.parquet"), read("coin", "coin")):
        back = found.sort_values("n").seen.tolist()
        for one, other in zip(shown, back, strict=False):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        assert back[-1] is None
    assert "seen" not in pd.read_csv(results / "coin" / "coin.csv")


@pytest.mark.parametrize(
    "picture", [np.zeros(2**16 + 1, np.uint8), np.zeros(4), np.zeros(4, np.int64)]
)
def test_what_is_no_small_picture_is_refused_and_nothing_is_written(tmp_path, refuses, picture):
    rows = [flips(10, 0, seen=picture)]
    path = tmp_path / "a.parquet"
    refuses(lambda: write(rows, path, axes=AXES), "seen", "65536", error=RecordError)
    assert list(tmp_path.iterdir()) == []


# Other data, precision, devices


def test_rows_of_other_data_are_another_version_and_lost_by_none(tmp_path):
    one, other = row(0.1), row(0.2, data="0ther")
    collected(tmp_path, one, row(0.1, seed=1))
    collect("digits", [point_file(tmp_path / "new", other)], keep=True)
    assert sorted(every("digits", "performance").value) == [0.1, 0.1, 0.2]
    with pytest.warns(LeftOut, match="1 of engine c0de of 0ther of fp32"):
        assert read("digits", "performance").value.tolist() == [0.1, 0.1]


def test_half_precision_is_never_read_with_full(tmp_path):
    collected(tmp_path, row(0.1), row(0.1, seed=1), row(0.2, seed=2, device="H100, bf16, compiled"))
    with pytest.warns(LeftOut, match="1 of engine .* of bf16"):
        assert set(read("digits", "performance").device) == {row()["device"]}


@pytest.mark.parametrize(("column", "values"), [("device", "another cpu"), ("torch", "2.0")])
def test_other_devices_and_versions_of_torch_are_said(tmp_path, column, values):
    collected(tmp_path, row(0.1), row(0.2, seed=1, **{column: values}))
    with pytest.warns(LeftOut, match=f"more than one {column}: .*{values}"):
        assert len(read("digits", "performance")) == 2


@pytest.mark.parametrize("column", ["value", "examples", "low"])
def test_a_number_given_as_text_is_refused(tmp_path, refuses, column):
    path = tmp_path / "one.parquet"
    message = refuses(lambda: write([row() | {column: "0.5"}], path), path, error=RecordError)
    assert f"{column} must be numbers, got '0.5'" in message
    assert not path.exists()


def test_whole_numbers_stay_whole_beside_rows_that_have_none(tmp_path):
    with_steps, without = row() | {"steps": 10}, row(seed=1)
    collected(tmp_path, with_steps, without)
    steps = read("digits", "performance").steps
    assert steps.dropna().tolist() == [10]
    assert steps.dtype == "Int64"
