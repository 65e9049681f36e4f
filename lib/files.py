"""Files that are written whole or not at all."""

import os
import secrets
import socket
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path` that takes its place once the block ends without error.

    A reader never sees half a file: after an interruption, an error or a full disk, `path` is as
    it was and the temporary file is gone (a killed process leaves it behind). Its name is that of
    one writer alone, for two containers may share a folder and a process number. Parent folders
    are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
