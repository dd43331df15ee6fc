"""The order of the rooms, from the imports: docs/architecture.md has the table."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = ("objectives", "scorers")
OF_RESULTS = ("phf.evaluation.results", "phf.evaluation.result_files", "phf.evaluation.measures")


def rooms() -> list[str]:
    """The rooms of `phf` in the order of the documentation's table."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `phf/(\w+)/`", table, flags=re.MULTILINE)


def modules() -> dict[str, Path]:
    found = {}
    for package in ("phf", *GROUND):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, at_the_top: bool = False) -> set[str]:
    """The modules of the project that a file imports: anywhere, or when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if at_the_top:
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & MODULES.keys()


def room(module: str) -> str:
    """The room of a module; what lies in no room is the command line, at the top."""
    parts = module.split(".")
    return parts[0] if parts[0] != "phf" else parts[1] if len(parts) > 1 and parts[1] in rooms() else "top"


def test_every_package_is_a_room_of_the_table():
    packages = {path.parent.name for path in (ROOT / "phf").glob("*/__init__.py")}
    assert sorted(rooms()) == sorted(packages)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_up_the_table(name):
    order = [*rooms(), "top"]
    for imported in imports(MODULES[name]):
        here, there = room(name), room(imported)
        if here in GROUND:
            assert there == here, f"{name} imports {imported}"
        elif there not in GROUND:
            assert order.index(there) <= order.index(here), f"{name} imports {imported}"


def test_no_circle():
    graph = {name: imports(path, at_the_top=True) - {name} for name, path in MODULES.items()}
    for name, path in MODULES.items():  # a package is there before what is in it
        if path.name == "__init__.py":
            graph[name] = {found for found in graph[name] if not found.startswith(f"{name}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.slow
def test_a_report_needs_results_alone():
    for name in MODULES:
        if room(name) == "report":
            for imported in imports(MODULES[name]):
                allowed = room(imported) in ("base", "config", "report") or imported.startswith(OF_RESULTS)
                assert allowed or imported in ("phf.annotation.manifest", "scorers"), f"{name}: {imported}"
    loaded = "import sys, phf.report.report as r, phf.report.contents; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
