"""A Jupyter extension: a notebook stops at a parameter that it does not have.

papermill writes the parameters that it is given into a cell of their own, below the notebook's
`parameters` cell, and only warns of a name that isn't there: the notebook would run to its end
with the default of the one that was meant. `%load_ext lib.book.parameters` in the cell after stops
it.
"""

import ast

INJECTED = "# Parameters\n"  # how the cell begins that papermill writes


def load_ipython_extension(shell):
    """Raises ValueError if papermill's cell, if there is one, sets what no cell before it does."""
    known = {}
    for cell in shell.user_ns["In"]:
        if cell.startswith(INJECTED):
            check(known, _assigned(cell))
        known |= dict.fromkeys(_assigned(cell))


def check(known, given):
    """Raises ValueError, in one line, if a name of `given` is none of `known`."""
    unknown = [name for name in given if name not in known]
    if unknown:
        words = f"unknown parameter{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}"
        raise ValueError(f"{words}: this notebook has {', '.join(known) or 'none'}")


def _assigned(source):
    """The names that a cell assigns, in its order."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return [name.id for name in found if isinstance(name.ctx, ast.Store)]
