"""The house rules that a machine can check: sizes, docstrings, parameters, and that everything is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("control_plane", "data_plane", "shared", "deploy")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
POSITIONAL_MAX = 5
"""Four and `self`."""
ENTRY_POINTS = {"__main__", "__init__", "main", "child", "env"}
NOT_IMPORTED = {
    "deploy/embedded/launch.py",  # started with `python -m`
    "deploy/demo/provider.py",  # started with `python -m`
    "shared/ledger/model.py",  # the specification that the tests hold the scripts against
}
GENERATED = "control_plane/migrations/versions"


def product_files() -> list[Path]:
    return [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in product_files()}


def test_the_product_was_found(trees: dict[str, ast.Module]) -> None:
    assert len(trees) > 100


def test_no_file_is_longer_than_the_limit() -> None:
    long = {
        name_of(path): lines
        for path in product_files()
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert long == {}


def test_no_function_is_longer_than_the_limit(trees: dict[str, ast.Module]) -> None:
    long = {
        f"{name}:{function.name}": length
        for name, tree in trees.items()
        if GENERATED not in name
        for function in functions(tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_every_module_says_what_it_is_for(trees: dict[str, ast.Module]) -> None:
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_a_function_takes_at_most_four_positional_parameters(trees: dict[str, ast.Module]) -> None:
    wide = [
        f"{name}:{function.name}"
        for name, tree in trees.items()
        if "/cli/main.py" not in name  # options of commands
        for function in functions(tree)
        if len(function.args.posonlyargs) + len(function.args.args) > POSITIONAL_MAX
        and not function.name.startswith("__")
    ]
    assert wide == []


def test_every_module_is_imported_by_another(trees: dict[str, ast.Module]) -> None:
    imported: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    orphans = [
        name
        for name in trees
        if GENERATED not in name
        and Path(name).stem not in ENTRY_POINTS
        and name.removesuffix(".py").replace("/", ".") not in imported
        and name not in NOT_IMPORTED
    ]
    assert orphans == []


def test_a_broad_except_says_why(trees: dict[str, ast.Module]) -> None:
    silent = []
    for name, tree in trees.items():
        lines = (ROOT / name).read_text().splitlines()
        for node in ast.walk(tree):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            )
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                assert isinstance(node, ast.ExceptHandler)
                nearby = lines[node.lineno - 1 : node.lineno + 1]
                if not any("#" in line for line in nearby):
                    silent.append(f"{name}:{node.lineno}")
    assert silent == []
