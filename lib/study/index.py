"""Which measures of a profile's points are recorded, and where the others' records will lie.

A record file has its point, its measure and their version in its name: a listing says what is
there, and no file has to be opened. What is collected already, the table of costs says.
"""

import os
import sys
from dataclasses import dataclass, replace

import pandas as pd

from lib import records
from lib.study.grid import label

NETWORK = ("compile", "train", "load")  # stages of a point's cost before it is measured


@dataclass(frozen=True)
class File:
    """A record file of a measure of a point, by name; code and settings are the measure's version.

    A generator is a point as well, named after its factor, with the measure "generators".
    """

    point: str
    measure: str
    code: str
    settings: str

    def __str__(self):
        return f"{self.point}.{self.measure}.{self.code}-{self.settings}.parquet"

    @classmethod
    def of(cls, name):
        """The file that a name stands for; None if it stands for none."""
        parts = name.rsplit(".", 3)
        if len(parts) == 4 and parts[2].count("-") == 1 and parts[3] == "parquet":
            return cls(*parts[:2], *parts[2].split("-"))
        return None


def record_folder(profile):
    return records.runs() / profile.name / "records"


def record_file(profile, point, measure):
    """The File of a measure of a point, in the version of now."""
    augmentation = getattr(point, "augmentation", None)
    return File(f"{point}", measure, *profile.version(measure, augmentation))


def generator_file(profile, factor):
    return File(f"generator-{factor}", "generators", *profile.version("generators", factor))


class Index:
    """What is recorded of a profile: as it was when this was made, and what was made since.

    A file that is cut off is named on stderr and does not count.
    """

    def __init__(self, profile):
        self.profile = profile
        there = filter(None, map(File.of, _listed(record_folder(profile))))
        whole = {file for file in there if _whole(self._path(file))}
        collected = self._collected()
        self.uncollected = {f for f in whole - collected if is_current(profile, f)}
        self._files = {self._key(file) for file in whole | collected}

    def __contains__(self, file):
        if self._key(file) in self._files:
            return True
        path = self._path(file)
        whole = _whole(path)
        if not whole and path.exists():
            print(f"record {path} is cut off: to be made again", file=sys.stderr)
        return whole

    def _path(self, file):
        return record_folder(self.profile) / f"{file}"

    def _key(self, file):
        """Where points are kept, they stand whatever code made them."""
        return file if self.profile.sweep["remake"] else replace(file, code="any")

    def missing(self, point):
        """The names of the point's measures that are not recorded, in the order of the profile."""
        profile = self.profile
        return [name for name in profile.measured(point)
                if record_file(profile, point, name) not in self]  # fmt: skip

    def _collected(self):
        """The files whose rows are in the tables: each has a row in that of costs."""
        name, found = self.profile.name, set()
        there = {path.stem for path in (records.results() / name).glob("*.parquet")}
        if "cost" in there:
            rows = records.every(name, "cost")
            rows["stage"] = _owners(rows)
            known = {owner for owner in set(rows.stage) if owner in self.profile.all_measures
                     and there.issuperset(self.profile.tables(owner))}  # fmt: skip
            rows = rows[[*self.profile.axes, "stage", "code", "settings"]].drop_duplicates()
            for *cell, owner, code, settings in rows.itertuples(index=False):
                if owner in known:
                    point = label(dict(zip(self.profile.axes, cell, strict=True)))
                    found.add(File(point, owner, code, settings))
        if "generators" in there:
            rows = records.every(name, "generators")
            versions = rows[["augmentation", "code", "settings"]].drop_duplicates()
            found |= {File(f"generator-{factor}", "generators", *version)
                      for factor, *version in versions.itertuples(index=False)}  # fmt: skip
        return found


def is_current(profile, file):
    """Whether a File is of the code and settings of now.

    Where the profile does not remake its points, any code's is.
    """
    kind = file.point.removeprefix("generator-").rsplit("-p", 1)[0]
    version = _version(profile, file.measure, kind)
    return _same(profile, version, file.code, file.settings)


def current(profile, table, rows):
    """Which rows of a collected table are of the code and settings of now, as `is_current`."""
    owners = {name: owner for owner in profile.all_measures for name in profile.tables(owner)}
    found = rows[["code", "settings"]].assign(
        owner=_owners(rows) if table == "cost" else owners.get(table, table),
        kind=rows.augmentation if "augmentation" in rows else "",
    )
    keys = [*found[["owner", "kind", "code", "settings"]].itertuples(index=False, name=None)]
    known = {key: _same(profile, _version(profile, *key[:2]), *key[2:]) for key in set(keys)}
    return pd.Series([known[key] for key in keys], rows.index, dtype=bool)


def _owners(cost):
    """The measure that each row of costs is of."""
    return cost.stage.replace(dict.fromkeys(NETWORK, "network"))


def _version(profile, measure, augmentation):
    """None if the profile has dropped the measure or the augmentation."""
    if measure not in profile.all_measures:
        return None
    try:
        return profile.version(measure, augmentation)
    except ValueError:
        return None


def _same(profile, version, code, settings):
    if version is None:
        return False
    return settings == version[1] and (code == version[0] or not profile.sweep["remake"])


def _listed(folder):
    return os.listdir(folder) if folder.is_dir() else []


def _whole(path):
    """Whether a file is there and ends as a Parquet file does."""
    try:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except OSError:  # it is not there, or has not so many bytes
        return False
