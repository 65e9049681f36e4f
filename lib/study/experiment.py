"""The runner of experiments: a notebook's function at the cells of its profile's grid."""

import time

from lib import records
from lib.records.provenance import describe
from lib.records.tables import row
from lib.runtime import device
from lib.study.index import Index, record_file, record_folder
from lib.study.profile import Experiment, Profile


def run_experiment(name, point, **axes):
    """Record the cells of a profile that are not recorded, each as soon as it is done.

    `point(**cell, **settings)` gives the rows of a cell: dicts with `measure`, `value`, `examples`
    and what else they need; a value may be a small picture, an array of uint8. `data` says of which
    data set a row is (a checksum). `axes` are lists or single values, None the grid's own. A cell
    that raises a ValueError or FloatingPointError is passed over, and a ValueError at the end tells
    of it.
    """
    profile = Profile.read(name)
    if not isinstance(profile, Experiment):
        raise ValueError(f"profile {profile.name} is of the study: its notebook is point")
    index, (table,) = Index(profile), profile.measured()
    cells = profile.points(**axes)
    todo = [cell for cell in cells if index.missing(cell)]
    print(f"{len(cells)} points, {len(cells) - len(todo)} of them recorded already", flush=True)
    failed = {}
    for cell in todo:
        file, started = record_file(profile, cell, table), time.perf_counter()
        try:
            rows = [_located(found, cell) for found in point(**cell.cell, **profile.settings)]
            seconds = time.perf_counter() - started
            rows.append(row("cost", "seconds", seconds, 1, stage=table))
            shared = {
                "profile": profile.name, **cell.cell, "code": file.code,
                "settings": file.settings, "data": "none", **describe(device()), "table": table,
            }  # fmt: skip
            path = record_folder(profile) / f"{file}"
            records.write([shared | found for found in rows], path, axes=profile.axes)
        except (FloatingPointError, ValueError) as error:
            print(f"{cell} failed: {error}", flush=True)
            failed[cell] = error
            continue
        print(f"{cell}: {seconds:.1f} s", flush=True)
    if failed:
        cell, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} points failed, the first of them {cell}: {error}")


def _located(found, cell):
    """The row, if it is one, and says nothing else of its cell than what the cell is."""
    lacking = {"measure", "value", "examples"} - {*found}
    if lacking:
        raise ValueError(f"a row lacks {', '.join(sorted(lacking))}: {found}")
    for axis, value in cell.cell.items():
        if axis in found and found[axis] != value:
            raise ValueError(f"a row of {axis} {value!r} says {found[axis]!r}")
    return found
