"""The book: chapters executed with papermill, then rendered as a website and slides.

    python -m lib.book execute notebooks/03_performance.py runs/book/03_performance.ipynb [-p k v]
    python -m lib.book build [--source runs/book] [--out _build]
    python -m lib.book serve [--out _build] [--port 8000]
    python -m lib.book pair notebooks/*.py

`imports(path)` names the files of `lib/` a chapter depends on: it is executed again if they change.
"""

import argparse
import ast
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lib.book.parameters import check
from lib.files import replacing
from lib.records.provenance import ROOT, imports

__all__ = ["BookError", "build", "execute", "imports", "serve"]


class BookError(RuntimeError):
    """What is wrong with a chapter or with the book, in words for whoever runs `make`."""


def execute(notebook, output, parameters=None):
    """Execute a percent notebook (`.py`) with these parameters and write it as `.ipynb`.

    It runs in the notebook's folder and is written whole or not at all. Raises BookError if there
    is no such parameter, or with the cell's traceback if a cell fails.
    """
    import jupytext
    import nbformat
    import papermill

    notebook, parameters = Path(notebook), dict(parameters or {})
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "source.ipynb"), Path(folder, "made.ipynb")
        nbformat.write(jupytext.read(notebook), source)
        try:
            check(papermill.inspect_notebook(source), parameters)
        except ValueError as error:
            raise BookError(f"{notebook}: {error}") from error
        try:
            with _importable(ROOT):
                papermill.execute_notebook(
                    source, made, parameters, cwd=notebook.parent, kernel_name="python3",
                    progress_bar=False, autosave_cell_every=0,
                    request_save_on_cell_execute=False,
                )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            raise BookError(f"{notebook}: {error}") from error
        executed = published(nbformat.read(made, as_version=4))
    with replacing(output) as temporary:
        nbformat.write(executed, temporary)


def pair(notebook):
    """Write the `.ipynb` beside a `.py` notebook, without outputs and the same each time."""
    import jupytext
    import nbformat

    made = jupytext.read(notebook)
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    _write(Path(notebook).with_suffix(".ipynb"), nbformat.writes(made).encode() + b"\n")


def published(notebook):
    """The executed notebook without what differs from run to run and from machine to machine.

    Timings and absolute paths go; the cell of injected parameters is folded.
    """
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags and "hide-input" not in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        for out in cell.get("outputs", []):
            out.update(_without_paths(dict(out)))
    return notebook


def build(source=ROOT / "runs" / "book", out=ROOT / "_build", *, root=ROOT):
    """Render the book with the executed notebooks in `source`; return the website's first page.

    Beside the page of each chapter lie its slides. Warnings are errors. What has not changed since
    the last build is not rendered again.
    """
    from jupyter_book.sphinx import build_sphinx

    from lib.book import slides

    source, out = Path(source), Path(out).resolve()
    stage, doctrees, html = out / "source", out / ".doctrees", out / "html"
    _mirror(_files(root, source), stage)
    failed = build_sphinx(
        stage, html, doctreedir=doctrees, path_config=stage / "_config.yml", noconfig=True,
        confoverrides={"external_toc_path": str(stage / "_toc.yml"),
                       "latex_individualpages": False},
        warningiserror=True, keep_going=True, quiet=True,
    )  # fmt: skip
    if failed:
        # The pages that warned are stored as read: the next build would not warn again.
        shutil.rmtree(doctrees, ignore_errors=True)
        raise BookError("the book was not built: see the warnings above")
    _drawing_library(html / "_static" / "vega.js")
    slides.build(html)
    return html / "index.html"


def serve(out=ROOT / "_build", port=8000):
    """Serve the website on this machine until interrupted."""
    html = Path(out) / "html"
    if not (html / "index.html").exists():
        raise BookError(f"{html} holds no website: make book")
    handler = partial(SimpleHTTPRequestHandler, directory=html)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _pages(root):
    """The pages that the table of contents names, the first page first."""
    return re.findall(r"^\s*(?:- )?(?:root|file): *(\S+)", (root / "_toc.yml").read_text(), re.M)


def _files(root, source):
    """{path in the book: file} of all that the book is rendered from."""
    found = {name: root / name for name in ("_config.yml", "_toc.yml")}
    for page in _pages(root):
        folder, _, name = page.rpartition("/")
        if folder == "notebooks":
            found[f"{page}.ipynb"] = source / f"{name}.ipynb"
    missing = sorted(str(path) for path in found.values() if not path.exists())
    if missing:
        raise BookError(f"missing: {', '.join(missing)} (make book executes the chapters)")
    for path in sorted((root / "book").rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(root / "book").as_posix()
            found[name if name.startswith("_static/") else f"book/{name}"] = path
    return found


def _mirror(files, stage):
    """Make `stage` hold exactly these files; one that is the same is left alone, date and all."""
    for name, path in files.items():
        _write(stage / name, path.read_bytes())
    for path in sorted(stage.rglob("*")):
        if path.is_file() and path.relative_to(stage).as_posix() not in files:
            path.unlink()


def _write(path, content):
    if not path.exists() or path.read_bytes() != content:
        with replacing(path) as temporary:
            temporary.write_bytes(content)


def _drawing_library(path):
    """Vega-Embed and what it needs, as one script in a scope of its own.

    Not among the book's static files: Jupyter Book would load its 0.9 MB on every page.
    """
    import vl_convert

    note = f"// vl-convert {vl_convert.__version__}\n"
    if path.exists() and path.read_text().startswith(note):
        return
    _write(path, f"{note}(() => {{\n{vl_convert.javascript_bundle()}\n}})();\n".encode())


def _without_paths(value):
    if isinstance(value, dict):
        return {k: v if k.startswith("image/") else _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    if isinstance(value, str):
        value = re.sub(r"/\S*?/ipykernel_\d+/\d+\.py", "cell", value)
        for folder in (sys.prefix, str(ROOT)):
            value = value.replace(f"{folder}/", "")
    return value


@contextmanager
def _importable(folder):
    """Let the kernels started inside import from `folder`, whatever their working directory."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m lib.book", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("execute", help="execute a chapter")
    command.add_argument("notebook", type=Path)
    command.add_argument("output", type=Path)
    command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="a parameter, as a Python literal or else as text")  # fmt: skip
    command = commands.add_parser("pair", help="write the .ipynb beside .py notebooks")
    command.add_argument("notebooks", type=Path, nargs="+")
    command = commands.add_parser("build", help="render the website")
    command.add_argument("--source", type=Path, default=ROOT / "runs" / "book")
    command.add_argument("--out", type=Path, default=ROOT / "_build")
    command = commands.add_parser("serve", help="show the website on this machine")
    command.add_argument("--out", type=Path, default=ROOT / "_build")
    command.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    try:
        if given.command == "execute":
            execute(given.notebook, given.output, {name: _value(text) for name, text in given.p})
        elif given.command == "pair":
            for notebook in given.notebooks:
                pair(notebook)
        elif given.command == "build":
            print(build(given.source, given.out))
        else:
            serve(given.out, given.port)
    except BookError as error:
        sys.exit(str(error))
