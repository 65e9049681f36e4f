"""Records: rows of tidy tables, each with the code, data, device and settings that made it.

`tables` writes, reads and collects them, `provenance` says where a number comes from.
"""

from lib.records.tables import (
    AXES,
    CELL,
    LeftOut,
    RecordError,
    axes_of,
    collect,
    every,
    in_order,
    profiles,
    read,
    read_file,
    results,
    row,
    runs,
    select,
    studies,
    write,
)

__all__ = [
    "AXES", "CELL", "LeftOut", "RecordError", "axes_of", "collect", "every", "in_order", "profiles",
    "read", "read_file", "results", "row", "runs", "select", "studies", "write",
]  # fmt: skip
