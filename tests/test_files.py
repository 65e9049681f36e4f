import errno
import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.files import replacing


def alone(folder):
    """The names in a folder, hidden ones too: what a test leaves there must be what it made."""
    return sorted(path.name for path in folder.iterdir())


@given(content=st.binary(max_size=2000), old=st.none() | st.binary(max_size=100))
def test_the_content_arrives_whole(tmp_path_factory, content, old):
    path = tmp_path_factory.mktemp("files") / "table.bin"
    if old is not None:
        path.write_bytes(old)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    assert path.read_bytes() == content
    assert alone(path.parent) == ["table.bin"]


def test_the_old_content_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        # Only within one folder, and so one file system, is the exchange atomic.
        assert temporary.parent == path.parent
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_error_all_is_as_it_was(tmp_path, old, error):
    path = tmp_path / "a"
    if old:
        path.write_text(old)
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert alone(tmp_path) == (["a"] if old else [])
    assert not old or path.read_text() == old


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(OSError, match="No such file"), replacing(path):
        pass
    assert path.read_text() == "old"
    assert alone(tmp_path) == ["a"]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "a"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(io.FileIO):
        """Takes the first bytes, then the disk is full."""

        def write(self, content):
            return super().write(content) if not self.tell() else full()

    if where != "write":
        monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError, match="No space") as caught, replacing(path) as temporary:
        with Full(temporary, "w") as file:
            file.write(b"first")
            if where == "write":
                assert temporary.read_bytes() == b"first"
                file.write(b"second")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert alone(tmp_path) == ["a"]


def test_a_real_limit_on_the_size_of_files_leaves_the_old_file(tmp_path):
    """Not simulated: the kernel refuses what a file holds beyond 10,000 bytes."""
    path = tmp_path / "a"
    path.write_text("old")
    script = f"""
import resource, signal
from lib.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with replacing({str(path)!r}) as temporary:
    temporary.write_bytes(bytes(20_000))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode
    assert "File too large" in run.stderr
    assert path.read_text() == "old"
    assert alone(tmp_path) == ["a"]


def test_parent_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with replacing(str(path)) as temporary:
        temporary.write_text("deep")
    assert path.read_text() == "deep"
    with replacing(path) as temporary:  # and may be there already
        temporary.write_text("again")
    assert path.read_text() == "again"


def test_two_processes_write_one_file_without_mixing(tmp_path):
    """Each uses a temporary of its own; the later one wins."""
    path = tmp_path / "a"
    script = f"""
import sys
from lib.files import replacing
with replacing({str(path)!r}) as temporary:
    temporary.write_text("theirs")
    print(flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()  # it is in its block
    with replacing(path) as temporary:
        temporary.write_text("ours")
    assert path.read_text() == "ours"
    other.communicate(b"")
    assert other.returncode == 0
    assert path.read_text() == "theirs"
    assert alone(tmp_path) == ["a"]


def test_two_writers_of_one_process_number_do_not_meet(tmp_path, monkeypatch):
    """Two containers on one folder: the same host name, at worst, and the same process number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with replacing(tmp_path / "one") as first, replacing(tmp_path / "one") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "one").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
