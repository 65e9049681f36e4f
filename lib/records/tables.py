"""Records: rows of tidy tables, each with its point, settings, value and provenance.

While a sweep runs, what a measure reads off a point lies in one small file under `runs/`; `collect`
merges them into `results/<profile>/<table>.parquet`. Files are written whole or not at all. Of the
columns `profile` comes first, then the axes of the grid, then the provenance from `code` on.

A table may hold rows of several versions of the code. They are kept apart: `read` gives those of
one version, or of versions that `results/versions.yaml` declares to give the same results.
"""

import os
import warnings
from numbers import Number
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lib.files import replacing
from lib.records.provenance import ROOT

AXES = ["dataset", "network", "augmentation", "p", "seed"]  # of the study
CELL = ["augmentation", "p", "seed"]  # which point of a profile of the study
PROVENANCE = ["code", "settings", "data", "commit", "python", "torch", "device"]
VALUES = ["value", "examples"]
BESIDE = ["low", "high", "limit", "warning", "residual"]  # how far to believe a value
REQUIRED = {"profile", *PROVENANCE, *VALUES}
LARGEST = 2**16  # bytes of a picture


class RecordError(ValueError):
    """A record that is damaged or not one of this project's."""


class LeftOut(UserWarning):
    """Recorded rows that are not read, because they are of another version than the others."""


def results():
    """The folder of the collected tables; the environment variable RESULTS moves it."""
    return Path(os.environ.get("RESULTS", ROOT / "results"))


def runs():
    """The folder of checkpoints and of records on their way; RUNS, in the environment, moves it."""
    return Path(os.environ.get("RUNS", ROOT / "runs"))


def row(table, measure, value, examples, **settings):
    """A row of a measure: its table, what was measured, with which settings, on how many."""
    return dict(table=table, measure=measure, **settings, value=float(value), examples=examples)


def write(rows, path, *, axes=AXES):
    """Write rows (dicts or a DataFrame) to a Parquet file, whole or not at all.

    `axes` are the columns that say which point a row is of. A value may be a small picture, an
    array of uint8. Raises RecordError if a column lacks that every row has, what is a number is
    none, or a picture is too large.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else _whole(list(rows))
    for name in axes:
        if name not in frame:
            raise RecordError(f"record {path} lacks its axis {name}")
    front = ["profile", *axes, *PROVENANCE]
    for name in front:
        if name in frame and frame[name].isna().any():
            raise RecordError(f"record {path} has a row without its {name}")
    frame = _check(frame, path)[[*front, *(name for name in frame if name not in front)]]
    for name in {*VALUES, *BESIDE}.intersection(frame):
        for value in () if pd.api.types.is_numeric_dtype(frame[name]) else frame[name].dropna():
            if not isinstance(value, Number):
                said = "a picture" if isinstance(value, np.ndarray) else repr(value)
                raise RecordError(f"record {path}: {name} must be numbers, got {said}")
    packed = {name: [_packed(value, f"record {path}: {name}") for value in frame[name]]
              for name in _pictures(frame)}  # fmt: skip
    table = pa.Table.from_pandas(frame.assign(**packed), preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_file(path):
    """The rows of one file. Raises RecordError, naming it, if it is damaged or foreign."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        frame = table.to_pandas()
        for field in table.schema:
            if pa.types.is_struct(field.type):
                frame[field.name] = [_unpacked(value) for value in frame[field.name]]
    except Exception as error:  # the decoding of a damaged file fails in many ways
        what = " ".join(str(error).split())
        raise RecordError(f"record {path} is damaged: {what}") from error
    return _check(frame, path)


def axes_of(frame):
    """The columns of a read table that say which point a row is of."""
    names = list(frame)
    return names[names.index("profile") + 1 : names.index("code")]


def read(profile, table, *, code=None):
    """The collected table of a profile as a DataFrame: the rows of one version.

    The code is that which made the most points of the table, or `code`; the settings are those of
    the most points as well, of each augmentation apart. What is left out is named in a warning of
    one line. Raises FileNotFoundError if nothing is recorded, saying how to record it, ValueError
    if `code` has made no row.
    """
    rows, words = select(profile, table, code=code)
    if words:
        warnings.warn(f"{table} of profile {profile}: {words}", LeftOut, stacklevel=2)
    return rows


def select(profile, table, *, code=None):
    """The rows that `read` gives, and the words for what is left out, empty if nothing is."""
    rows, same = every(profile, table), _declared()
    axes = axes_of(rows)
    rows["version"] = _versions(rows, same)
    if code is not None:
        made = [version[0] == same.get(code, code) for version in rows.version]
        if not any(made):
            known = ", ".join(sorted(set(rows.code)))
            raise ValueError(f"{table} of profile {profile}: engine {code} made none, only {known}")
        rows = rows[made]
    # Of costs every measure has its own versions, of settings every augmentation.
    made = {"compile": "train", "load": "train"}  # the network, one way or the other
    apart = rows.stage.replace(made) if table == "cost" else [0] * len(rows)
    kept, words = [], {}
    for _, part in rows.groupby(apart):
        part, others, called = _best(part, axes, "version")
        if others and code is None:
            left = ", ".join(f"{n} of engine {_said(v, called)}" for v, n in others.items())
            engine = _said(part.version.iloc[0], called)
            words[f"only what engine {engine} recorded is read; points left out: {left}"] = None
        names = part.augmentation if "augmentation" in axes else [""] * len(part)
        for name, own in part.groupby(names):
            own, others, _ = _best(own, axes, "settings")
            of = f" of {name}" if name else ""
            left = [f"{n}{of} with settings {settings}" for settings, n in others.items()]
            words |= dict.fromkeys([f"points left out: {', '.join(left)}"] if left else [])
            # Of codes that give the same results each point has one: its rows count once.
            rank = own.code.map({code: k for k, code in enumerate(_points(own, axes, "code"))})
            first = rank.groupby([own[axis] for axis in axes]).transform("min")
            kept.append(own[rank == first])
    rows = pd.concat(kept).sort_index()
    for name in ("device", "torch"):
        kinds = sorted(rows[name].unique())
        if len(kinds) > 1:
            words[f"its rows are of more than one {name}: {', '.join(kinds)}"] = None
    return rows.drop(columns="version").reset_index(drop=True), "; ".join(words)


def every(profile, table):
    """The collected table of a profile with the rows of all versions."""
    path = results() / profile / f"{table}.parquet"
    if not path.exists():
        raise FileNotFoundError(
            f"no {table} recorded for profile {profile!r} ({path} is missing): "
            f"make sweep PROFILE={profile}"
        )
    return read_file(path)


def profiles():
    """The names of the profiles that have collected tables."""
    return sorted({path.parent.name for path in results().glob("*/*.parquet")})


def studies(*tables):
    """The profiles that have all of `tables` collected, in the order in which a page shows them.

    ResNet-50 first, then other networks; digits, which every computer makes, last.
    """
    files = {name: [results() / name / f"{table}.parquet" for table in tables]
             for name in profiles()}  # fmt: skip
    there = [name for name, needed in files.items() if all(path.exists() for path in needed)]
    return in_order(there)


def in_order(names):
    """Names of profiles in the order of a page."""
    return sorted(names, key=lambda name: (name == "digits", "resnet50" not in name, name))


def collect(profile, files, *, keep=False):
    """Merge point files into the profile's tables, each with a CSV beside it.

    A row says in its column `table` into which. The same row counts once, the later file's; one of
    other code, settings or data is another row. With `keep`, rows already collected stay where the
    files bring none of the same point, code, settings and data: all of them, or those that
    `keep(table, rows)` says. Damaged files are named in a warning and left out.
    """
    frames = []
    if keep:
        for path in sorted((results() / profile).glob("*.parquet")):
            rows = read_file(path)
            rows = rows[keep(path.stem, rows)] if callable(keep) else rows
            frames.append(rows.assign(table=path.stem, fresh=False))
    for path in files:
        try:
            frame = read_file(path)
            if "table" not in frame:
                raise RecordError(f"record {path} does not say which table its rows are of")
            frames.append(frame.assign(fresh=True))
        except RecordError as error:
            warnings.warn(f"{error}: left out", stacklevel=2)
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise FileNotFoundError(f"no records of profile {profile!r} to collect")
    kinds = {tuple(axes_of(frame)) for frame in frames}
    if len(kinds) > 1:
        raise RecordError(f"records of profile {profile!r} have different axes: "
                          f"{' and '.join(', '.join(kind) for kind in sorted(kinds))}")  # fmt: skip
    axes, rows = list(kinds.pop()), _whole(frames)
    # Always in the same order, whatever was collected first: it is that of the rows as well.
    ends = [["profile", *axes, *PROVENANCE, "table", "measure"], [*VALUES, *BESIDE]]
    pictures = _pictures(rows)
    rest = sorted(set(rows).difference(*ends, ["fresh"], pictures))
    rows = rows[[name for name in [*ends[0], *rest, *ends[1], *pictures, "fresh"] if name in rows]]
    key = [name for name in [*ends[0], *rest] if name in rows and name not in PROVENANCE]
    key += ["code", "settings", "data"]
    # A point that was measured again brings all its rows: what it had by then does not stay.
    whole = ["table", *axes, *(["stage"] if "stage" in rows else []), "code", "settings", "data"]
    again = rows.fresh.groupby([rows[name] for name in whole], dropna=False).transform("any")
    rows = rows[rows.fresh | ~again].drop(columns="fresh")
    rows = rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
    for table, part in rows.groupby("table"):
        unused = [name for name in part if part[name].isna().all() and name not in REQUIRED]
        part = part.drop(columns=["table", *set(unused).difference(axes)])
        write(part, results() / profile / f"{table}.parquet", axes=axes)
        with replacing(results() / profile / f"{table}.csv") as temporary:
            part.drop(columns=_pictures(part)).to_csv(temporary, index=False)


def _versions(frame, same):
    """What is never read as one: (engine, data, precision) of each row."""
    precision = frame.device.str.contains("bf16").map({True: "bf16", False: "fp32"})
    codes = [same.get(code, code) for code in frame.code]
    return pd.Series([*zip(codes, frame.data, precision, strict=True)], frame.index, dtype=object)


def _said(version, versions):
    """One engine may have been given other data, or other precision: then all are named by it."""
    return " of ".join(version if len({v[1:] for v in versions}) > 1 else version[:1])


def _best(rows, axes, column):
    """The rows whose value of `column` has the most points; {other value: points}; all values."""
    first, *rest = (found := _points(rows, axes, column))
    return rows[rows[column] == first], {value: found[value] for value in rest}, [*found]


def _points(rows, axes, column):
    """{value of `column`: number of points}, most first, equal ones in alphabetical order."""
    found = rows[[*axes, column]].drop_duplicates()[column].value_counts()
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _declared():
    """{code: its group} of the engine's codes that versions.yaml says give the same results."""
    path = results() / "versions.yaml"
    if not path.exists():
        return {}
    try:  # all as text: a code may look like a number
        groups = yaml.load(path.read_text(), Loader=yaml.BaseLoader) or []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    found = {}
    for group in groups if isinstance(groups, list) else [groups]:
        codes, reason = map(group.get, ("codes", "reason")) if isinstance(group, dict) else (0, 0)
        whole = isinstance(codes, list) and all(isinstance(code, str) for code in codes)
        if not (whole and codes and isinstance(reason, str) and reason and len(group) == 2):
            raise RecordError(
                f"{path}: a group is {{codes: [...], reason: why they agree}}, got {group!r}"
            )
        for code in codes:
            if code in found:
                raise RecordError(f"{path}: engine {code} is declared twice")
            found[code] = " = ".join(sorted(codes))
    return found


def _whole(parts):
    """Rows (dicts) or frames as one frame, in which whole numbers stay so beside missing ones."""
    if isinstance(parts[0], dict):
        names = dict.fromkeys(name for part in parts for name in part)
        given = {name: [part.get(name) for part in parts] for name in names}
        return pd.DataFrame({name: _column(values) for name, values in given.items()})
    frame = pd.concat(parts, ignore_index=True)
    whole = [name for name in frame if all(pd.api.types.is_integer_dtype(part[name])
                                           for part in parts if name in part)]  # fmt: skip
    return frame.astype({name: "Int64" if frame[name].isna().any() else "int64" for name in whole})


def _column(values):
    kinds = {type(value) for value in values}
    if int in kinds and kinds <= {int, type(None)}:
        return pd.array(values, "Int64" if None in values else "int64")
    return pd.Series(values)


def _pictures(frame):
    return [name for name in frame if frame[name].dtype == object
            and any(isinstance(value, np.ndarray) for value in frame[name])]  # fmt: skip


def _packed(value, where):
    """An array as Parquet holds it; what is none stays missing."""
    if not isinstance(value, np.ndarray):
        if np.ndim(value) == 0 and pd.isna(value):
            return None
        raise RecordError(f"{where} must be a picture of uint8, got {value!r}")
    if value.dtype != np.uint8 or value.nbytes > LARGEST:
        raise RecordError(f"{where} must be a picture of uint8 of at most {LARGEST} bytes, "
                          f"got {value.dtype} of {value.nbytes}")  # fmt: skip
    return {"shape": list(value.shape), "pixels": value.tobytes()}


def _unpacked(value):
    if value is not None:
        return np.frombuffer(value["pixels"], np.uint8).reshape(value["shape"])
    return None


def _check(frame, path):
    missing = REQUIRED - set(frame.columns)
    if missing:
        raise RecordError(f"record {path} lacks the columns {', '.join(sorted(missing))}")
    if frame.empty:
        raise RecordError(f"record {path} holds no rows")
    return frame
