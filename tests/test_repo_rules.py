"""Rules of the repository that a reviewer would otherwise check by eye."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Signs, not limits: a file holds one idea, as a rule in 60 to 300 lines, and nobody
# cuts one for a counter. Only what has got out of hand meets these.
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 600, 60, 7

LIBRARY = sorted((ROOT / "resumable_tf").rglob("*.py"))
MODELS = sorted((ROOT / "models").glob("*.py"))
OURS = LIBRARY + MODELS
ALL = OURS + sorted(
    path
    for folder in ("benchmarks", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)

# Each room may import those of a lower level, never one of its own level.
LEVELS = {
    "errors": 0,
    "state": 1,
    "storage": 1,
    # What the machine says of its own end, and what a training tells its supervisor.
    "notices": 1,
    "supervising": 1.5,
    # Looks at the state, and is told of each step by all above.
    "auditing": 1.5,
    "checkpoint": 2,
    "data": 2,
    "training": 3,
    "serving": 3,
    "tpu": 3,
    "cli": 4,
    "__main__": 5,
    "__init__": 5,
}
# Parts of a room that stand lower than the rest of it: what `training` needs to reach a
# TPU, and which itself knows errors only.
LOWER = {"tpu/machine": 0.5, "tpu/cluster": 0.5, "tpu/host_watch": 0.5}
MAY_IMPORT_MODELS = {"cli", "tpu"}
# The two files that put the translation run together; nothing else of `training`
# knows an architecture.
MAY_IMPORT_MODELS |= {"training/config.py", "training/program.py"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[Function, list[ast.AST]]]:
    """Yields each function with the classes and functions around it."""

    def walk(node: ast.AST, around: list[ast.AST]) -> Iterator[tuple[Function, list]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield child, around
            is_scope = isinstance(child, Function | ast.ClassDef)
            yield from walk(child, [*around, child] if is_scope else around)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), [])


def num_lines(function: Function) -> int:
    """Returns the lines of a function without its docstring.

    The signature of a Typer command counts for nothing: it is a table of flags.
    """
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    of_docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    begin = first.lineno if is_command(function) else function.lineno
    return (function.end_lineno or 0) - begin + 1 - of_docstring


def is_command(function: Function) -> bool:
    """Tells whether Typer makes one flag of each parameter."""
    return "typer.Option(" in ast.unparse(function.args)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (module, name) of each import, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "resumable_tf").with_suffix("").parts[0]


def level_of(parts: list[str]) -> float:
    return LOWER.get("/".join(parts[:2]), LEVELS.get(parts[0], 5))


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_no_file_function_or_public_signature_gets_out_of_hand(path: Path) -> None:
    found = []
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MAX_FILE_LINES:
        found.append(f"{lines} lines")
    for function, around in functions(path):
        if (length := num_lines(function)) > MAX_FUNCTION_LINES:
            found.append(f"{function.name}: {length} lines")
        arguments = function.args
        names = [
            argument.arg
            for argument in arguments.posonlyargs
            + arguments.args
            + arguments.kwonlyargs
            if argument.arg not in ("self", "cls")
        ]
        is_free = (
            is_command(function)
            or function.name.startswith("test_")
            or not is_public(function, around)
        )
        if len(names) > MAX_PARAMETERS and not is_free:
            found.append(f"{function.name}: {len(names)} parameters")
    assert not found


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    own = str(path.relative_to(ROOT / "resumable_tf").with_suffix(""))
    wrong = []
    for module, name in imports(path):
        parts = [*module.split("."), name]
        if parts[0] == "models":
            file = str(path.relative_to(ROOT / "resumable_tf"))
            if not {room, file} & MAY_IMPORT_MODELS:
                wrong.append(f"{module}.{name}")
        elif parts[0] == "resumable_tf" and len(parts) > 1 and parts[1]:
            other = parts[1]
            is_low = own not in LOWER or "/".join(parts[1:3]) in LOWER
            are_mates = other == room and is_low
            if not are_mates and level_of(parts[1:]) >= level_of(own.split("/")):
                wrong.append(f"{module}.{name}")
    assert not wrong


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_models_import_nothing_of_the_library(path: Path) -> None:
    assert not [m for m, _ in imports(path) if m.split(".")[0] == "resumable_tf"]


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_private_names_are_not_imported_by_another_package(path: Path) -> None:
    wrong = []
    for module, name in imports(path):
        if module.split(".")[0] not in ("resumable_tf", "models"):
            continue
        package = path.relative_to(ROOT).parent.parts
        is_private = name.startswith("_") and not name.startswith("__")
        if is_private and tuple(module.split(".")[:-1]) != package:
            wrong.append(f"{module}.{name}")
    assert not wrong


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_files_are_named_after_their_idea(path: Path) -> None:
    assert path.stem not in ("utils", "util", "common", "helpers", "misc")


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_library_neither_prints_nor_restores_partially(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id == "print":
                found.append(f"line {node.lineno}: print")
            if isinstance(called, ast.Attribute) and called.attr == "expect_partial":
                found.append(f"line {node.lineno}: expect_partial")
    assert not found


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_modules_open_with_a_synopsis(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and docstring.splitlines()[0].endswith((".", ":"))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yields the nodes of a function's body, not of the functions inside it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))


def raised_names(function: Function) -> set[str]:
    """Returns the classes that the body raises; a re-raised variable is none."""
    names = set()
    for node in own_nodes(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(raised).split(".")[-1]
            if name[:1].isupper():
                names.add(name)
    return names


def documented_names(function: Function) -> set[str]:
    docstring = ast.get_docstring(function) or ""
    _, _, section = docstring.partition("\nRaises:\n")
    return set(re.findall(r"^    (\w+): ", section, flags=re.MULTILINE))


def is_public(function: Function, around: list[ast.AST]) -> bool:
    if any(isinstance(node, Function) for node in around):
        return False
    names = [function.name, *(n.name for n in around if isinstance(n, ast.ClassDef))]
    documented = ("__init__", "__post_init__", "__enter__", "__exit__", "__call__")
    return all(not name.startswith("_") or name in documented for name in names)


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_each_raise_of_a_public_function_is_in_its_docstring(path: Path) -> None:
    missing = {
        function.name: names
        for function, around in functions(path)
        if is_public(function, around)
        and (names := raised_names(function) - documented_names(function))
    }
    assert not missing


def test_rules_find_what_they_forbid(tmp_path: Path) -> None:
    """Guards the rules themselves: a check that finds nothing anywhere is none."""
    path = tmp_path / "bad.py"
    body = "\n".join("    x = 1" for _ in range(41))
    path.write_text(
        f"def long():\n{body}\n"
        "def f(a):\n"
        '    """Does.\n\n    Raises:\n        ValueError: If.\n    """\n'
        "    def inner():\n        raise KeyError\n"
        "    if a:\n        raise errors.UsageError('a')\n"
        "    raise ValueError from None\n"
    )
    by_name = {
        function.name: (function, around) for function, around in functions(path)
    }
    assert num_lines(by_name["long"][0]) == 42
    function, around = by_name["f"]
    assert is_public(function, around) and not is_public(*by_name["inner"])
    assert raised_names(function) == {"UsageError", "ValueError"}
    assert documented_names(function) == {"ValueError"}
    assert num_lines(function) == 6
