"""Records: rows of tidy tables, each with its point, settings, value and provenance.

While a study runs, a point's rows of all tables lie in one small file under `runs/`; `collect`
merges them into `results/<profile>/<table>.parquet`. Files are written whole or not at all.

A table may hold rows of several versions of the engine. They are kept apart: `read` gives those of
one version, or of versions that `results/versions.yaml` declares to give the same results.
"""

import os
import warnings
from numbers import Number
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lib.files import replacing
from lib.records.provenance import ROOT

POINT = ["profile", "dataset", "network", "augmentation", "p", "seed"]
PROVENANCE = ["code", "settings", "data", "commit", "python", "torch", "device"]
VALUES = ["value", "examples"]
BESIDE = ["low", "high", "limit", "warning", "residual", "trust"]  # how far to believe a value
CELL = ["augmentation", "p", "seed"]  # which point of a profile
REQUIRED = {*POINT, *PROVENANCE, *VALUES}
# Whole numbers: rows that have none of one would else turn the whole column into fractions.
WHOLE = ["seed", "steps", "step", "neighbours", "examples"]


class RecordError(ValueError):
    """A record that is damaged or not one of this project's."""


class LeftOut(UserWarning):
    """Recorded rows that are not read, because they are of another version than the others."""


def results():
    """The folder of the collected tables; the environment variable RESULTS moves it."""
    return Path(os.environ.get("RESULTS", ROOT / "results"))


def write(rows, path):
    """Write rows (dicts or a DataFrame) to a Parquet file, whole or not at all.

    Raises RecordError if a column lacks that every row has, or what is a number is none.
    """
    frame = _check(pd.DataFrame(rows), path)
    for name in {*VALUES, *BESIDE}.intersection(frame):
        for value in () if pd.api.types.is_numeric_dtype(frame[name]) else frame[name].dropna():
            if not isinstance(value, Number):
                raise RecordError(f"record {path}: {name} must be numbers, got {value!r}")
    frame = _whole(frame)
    with replacing(path) as temporary:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, temporary, write_page_checksum=True)


def read_file(path):
    """The rows of one file. Raises RecordError, naming it, if it is damaged or foreign."""
    try:
        frame = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except Exception as error:  # the decoding of a damaged file fails in many ways
        what = " ".join(str(error).split())
        raise RecordError(f"record {path} is damaged: {what}") from error
    return _whole(_check(frame, path))


def read(profile, table, *, code=None):
    """The collected table of a profile as a DataFrame: the rows of one version.

    The engine is that of the most points of the profile, or `code`; of each augmentation the
    settings are those of the most points. What is left out is named in a warning of one line.
    Raises FileNotFoundError if nothing is recorded, saying how to record it, ValueError if `code`
    has made no row.
    """
    rows, words = select(profile, table, code=code)
    if words:
        warnings.warn(f"{table} of profile {profile}: {words}", LeftOut, stacklevel=2)
    return rows


def select(profile, table, *, code=None):
    """The rows that `read` gives, and the words for what is left out, empty if nothing is."""
    same = _declared()
    rows, cells = (
        frame.assign(version=_versions(frame, same))
        for frame in (every(profile, table), _cells(profile))
    )
    if code is not None:
        cells = cells[[version[0] == same.get(code, code) for version in cells.version]]
        if not rows.version.isin(cells.version).any():
            known = ", ".join(sorted(set(rows.code)))
            raise ValueError(f"{table} of profile {profile}: engine {code} made none, only {known}")
    first, *rest = _points(cells, "version")
    # One engine may have been given other data, or other precision: then all are named by it.
    alike = {version[1:] for version in (first, *rest)}
    called = {v: " of ".join(v if len(alike) > 1 else v[:1]) for v in (first, *rest)}
    rows, others = _best(rows, cells, "version")
    version = rows.version.iloc[0]
    words = [] if code else [f"{n} of engine {called[other]}" for other, n in others.items()]
    parts, cells = [], cells[cells.version == version]
    for name, part in rows.groupby("augmentation"):
        part, others = _best(part, cells[cells.augmentation == name], "settings")
        words += [f"{n} of {name} with settings {other}" for other, n in others.items()]
        parts.append(part)
    rows = pd.concat(parts).sort_index()
    # Of codes that give the same results each point has one: its rows count once.
    rank = rows.code.map({name: k for k, name in enumerate(_points(rows, "code"))})
    rows = rows[rank == rank.groupby([rows[name] for name in CELL]).transform("min")]
    said = f"only what engine {called[version]} recorded is read"
    said += f"; points left out: {', '.join(words)}" if words else ""
    most = f"; engine {called[first]}, which has the most points, has none"
    said += most if version != first else ""
    said = [said] if words or version != first else []
    for name in ("device", "torch"):
        kinds = sorted(rows[name].unique())
        if len(kinds) > 1:
            said.append(f"its rows are of more than one {name}: {', '.join(kinds)}")
    return rows.drop(columns="version").reset_index(drop=True), "; ".join(said)


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

    The same row counts once, the later file's; one of other code, settings or data is another row.
    With `keep`, rows already collected stay where
    the files bring none of the same key: all of them, or those that `keep(rows)` says. Damaged
    files are named in a warning and left out.
    """
    frames = []
    if keep:
        old = sorted((results() / profile).glob("*.parquet"))
        old = [read_file(path).assign(table=path.stem, fresh=False) for path in old]
        frames += [rows[keep(rows)] if callable(keep) else rows for rows in old]
    for path in files:
        try:
            frame = read_file(path)
            if "table" not in frame:
                raise RecordError(f"record {path} does not say which table its rows are of")
            frames.append(frame.assign(fresh=True))
        except RecordError as error:
            warnings.warn(f"{error}: left out", stacklevel=2)
    if not frames:
        raise FileNotFoundError(f"no records of profile {profile!r} to collect")
    rows = pd.concat(frames, ignore_index=True)
    # Always in the same order, whatever was collected first: it is that of the rows as well.
    ends = [[*POINT, *PROVENANCE, "table", "measure"], [*VALUES, *BESIDE]]
    rest = sorted(set(rows).difference(*ends, ["fresh"]))
    rows = rows[[name for name in [*ends[0], *rest, *ends[1], "fresh"] if name in rows]]
    key = [name for name in [*ends[0], *rest] if name in rows and name not in PROVENANCE]
    key += ["code", "settings", "data"]
    # A point that was measured again brings all its rows: what it had by then does not stay.
    whole = [*CELL, "code", "settings", "data"]
    generated = rows.table == "generators"  # of a point as well, in a file of their own
    fresh = rows.fresh.groupby([*(rows[name] for name in whole), generated]).transform("any")
    rows = rows[rows.fresh | ~fresh]
    rows = rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
    if "trust" in rows:
        # Measured at one seed, of a kind of network, and handed on to the other seeds: a point that
        # was measured again hands on what it has now.
        kind = [rows[name] for name in key if name != "seed"]
        now = rows.trust.where(rows.fresh).groupby(kind, dropna=False).transform("last")
        rows["trust"] = now.fillna(rows.trust.groupby(kind, dropna=False).transform("first"))
    rows = rows.drop(columns="fresh")
    for table, part in rows.groupby("table"):
        unused = [name for name in part if part[name].isna().all() and name not in REQUIRED]
        part = part.drop(columns=["table", *unused])
        write(part, results() / profile / f"{table}.parquet")
        with replacing(results() / profile / f"{table}.csv") as temporary:
            part.to_csv(temporary, index=False)


def _cells(profile):
    """Which points have rows of which code and settings, in any table of the profile."""
    tables = (read_file(path) for path in sorted((results() / profile).glob("*.parquet")))
    columns = [*CELL, "code", "settings", "data", "device"]
    return pd.concat([table[columns].drop_duplicates() for table in tables])


def _versions(frame, same):
    """What is never read as one: (engine, data, precision) of each row."""
    precision = frame.device.str.contains("bf16").map({True: "bf16", False: "fp32"})
    codes = [same.get(code, code) for code in frame.code]
    return pd.Series([*zip(codes, frame.data, precision, strict=True)], frame.index, dtype=object)


def _best(rows, cells, column):
    """The rows whose value of `column` has the most points in `cells`; {other value: points}."""
    best = next(value for value in _points(cells, column) if (rows[column] == value).any())
    return rows[rows[column] == best], _points(rows[rows[column] != best], column)


def _points(rows, column):
    """{value of `column`: number of points}, most first, equal ones in alphabetical order."""
    found = rows[[*CELL, column]].drop_duplicates()[column].value_counts()
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


def _whole(frame):
    """The frame with its whole numbers as such, missing ones among them or not."""
    columns = frame.columns.intersection(WHOLE)
    return frame.astype(
        {name: "Int64" for name in columns if frame[name].isna().any()}
        | {name: "int64" for name in columns if frame[name].notna().all()}
    )


def _check(frame, path):
    missing = REQUIRED - set(frame.columns)
    if missing:
        raise RecordError(f"record {path} lacks the columns {', '.join(sorted(missing))}")
    if frame.empty:
        raise RecordError(f"record {path} holds no rows")
    return frame
