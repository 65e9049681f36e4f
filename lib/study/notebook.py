"""What a percent notebook says of itself, read without executing it."""

import ast

import jupytext


def arguments(notebook, function):
    """(those without a default, all) of a notebook's function, as sets; None if it has none."""
    for node in ast.parse(notebook.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            plain, alone = [*node.args.posonlyargs, *node.args.args], node.args.kwonlyargs
            late = zip(alone, node.args.kw_defaults, strict=True)
            required = plain[: len(plain) - len(node.args.defaults)]
            required += [arg for arg, default in late if default is None]
            return tuple({arg.arg for arg in found} for found in (required, [*plain, *alone]))
    return None


def parameters(notebook):
    """{name: default} of a percent notebook's cell of parameters; None if it has none.

    A default that is no literal is Ellipsis.
    """
    for cell in jupytext.read(notebook).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return dict(_assigned(ast.parse(cell.source)))
    return None


def _assigned(tree):
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    try:
                        yield target.id, ast.literal_eval(statement.value)
                    except ValueError:
                        yield target.id, ...
