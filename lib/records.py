"""Records: rows of tidy tables, each with its point, settings, value and provenance.

While a study runs, a point's rows of all tables lie in one small file under `runs/`; `collect`
merges them into `results/<profile>/<table>.parquet`. Files are written whole or not at all.
"""

import os
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.files import replacing
from lib.provenance import ROOT

POINT = ["profile", "dataset", "network", "augmentation", "p", "seed"]
PROVENANCE = ["code", "settings", "data", "commit", "python", "torch", "device"]
VALUES = ["value", "examples"]
BESIDE = ["low", "high", "limit", "warning", "residual", "trust"]  # how far to believe a value
REQUIRED = {*POINT, *PROVENANCE, *VALUES}


class RecordError(ValueError):
    """A record that is damaged or not one of this project's."""


def results():
    """The folder of the collected tables; the environment variable RESULTS moves it."""
    return Path(os.environ.get("RESULTS", ROOT / "results"))


def write(rows, path):
    """Write rows (dicts or a DataFrame) to a Parquet file, whole or not at all."""
    frame = _check(pd.DataFrame(rows), path)
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
    return _check(frame, path)


def read(profile, table):
    """The collected table of a profile as a DataFrame.

    Raises FileNotFoundError if nothing is recorded, saying how to record it.
    """
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
    there = [name for name in profiles()
             if all((results() / name / f"{table}.parquet").exists() for table in tables)]  # fmt: skip
    return sorted(there, key=lambda name: (name == "digits", "resnet50" not in name, name))


def collect(profile, files, *, keep=False):
    """Merge point files into the profile's tables, each with a CSV beside it.

    The same row counts once, the later file's. With `keep`, rows already collected stay where
    the files bring none of the same key. Damaged files are named in a warning and left out.
    """
    frames = []
    if keep:
        old = sorted((results() / profile).glob("*.parquet"))
        frames += [read_file(path).assign(table=path.stem) for path in old]
    for path in files:
        try:
            frame = read_file(path)
            if "table" not in frame:
                raise RecordError(f"record {path} does not say which table its rows are of")
            frames.append(frame)
        except RecordError as error:
            warnings.warn(f"{error}: left out", stacklevel=2)
    if not frames:
        raise FileNotFoundError(f"no records of profile {profile!r} to collect")
    rows = pd.concat(frames, ignore_index=True)
    # Always in the same order, whatever was collected first: it is that of the rows as well.
    ends = [[*POINT, *PROVENANCE, "table", "measure"], [*VALUES, *BESIDE]]
    rest = sorted(set(rows).difference(*ends))
    rows = rows[[name for name in [*ends[0], *rest, *ends[1]] if name in rows]]
    key = [name for name in rows.columns if name not in [*VALUES, *BESIDE, *PROVENANCE]]
    rows = rows.drop_duplicates([*key, "code", "settings"], keep="last")
    rows = rows.sort_values([*key, "code", "settings"], ignore_index=True)
    for table, part in rows.groupby("table"):
        unused = [name for name in part if part[name].isna().all() and name not in REQUIRED]
        part = part.drop(columns=["table", *unused])
        write(part, results() / profile / f"{table}.parquet")
        with replacing(results() / profile / f"{table}.csv") as temporary:
            part.to_csv(temporary, index=False)


def _check(frame, path):
    missing = REQUIRED - set(frame.columns)
    if missing:
        raise RecordError(f"record {path} lacks the columns {', '.join(sorted(missing))}")
    if frame.empty:
        raise RecordError(f"record {path} holds no rows")
    return frame
