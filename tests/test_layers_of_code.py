"""Imports and includes go from higher layers to lower ones, and never in a circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Graph = dict[str, set[str]]

# From the lowest up. A module belongs to the longest of these names that leads to it, and may use its own layer and
# those before it; the last of a tree is what stands in its root.
LAYERS: dict[str, tuple[str, ...]] = {
    "crossd_ops": (
        "library",  # where the compiled library is, what it has
        "tuning",  # which method a convolution takes
        "operators.checks",
        "reference",
        "operators",  # the compiled operators and their derivatives
        "functional",
        "layers",
        "conversion",
        "checkpoints",
        "planes",
        "inspection",  # describes and tries all of it
        "",
    ),
    "benchmarks": (
        "progress",
        "timing",
        "tables",
        "environment",
        "models",
        "head_dataset",
        "operator_cases",
        "memory",
        "convolution_methods",
        "host_time",
        "operator_benchmark",
        "training_benchmark",
        "networks",
        "train",
        "transfer",
        "plots",
        "report",
        "gpu.parts",
        "gpu.programs",
        "gpu.report_tables",
        "gpu.measurements",
        "gpu",
        "",
    ),
    "csrc": (
        "include",  # for C++ projects, which have nothing else of csrc
        "common",
        "shift",
        "head",
        "convolution",
        "instruction_sets",
        "",
    ),
}


def python_imports(folder: Path) -> Graph:
    """For each module of a package those of the package that it imports, wherever in its code."""
    package = folder.name

    def name_of(path: Path) -> str:
        parts = path.relative_to(folder).with_suffix("").parts
        return ".".join((package, *(part for part in parts if part != "__init__")))

    modules = {name_of(path): path for path in folder.rglob("*.py")}
    graph: Graph = {name: set() for name in modules}
    for name, path in modules.items():
        around = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = around[: len(around) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                found = [full if (full := f"{source}.{alias.name}") in modules else source for alias in node.names]
            else:
                continue
            graph[name] |= {module for module in found if module in modules} - {name}
    return graph


def includes(folder: Path) -> Graph:
    """For each file of C++ and CUDA the others below the folder that it includes: from the folder's root, or beside."""
    files = {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.suffix in (".h", ".cpp", ".cu", ".cuh")
    }
    graph: Graph = {}
    for name, path in files.items():
        found = re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)
        beside = {str(Path(name).parent / other) for other in found}
        graph[name] = {*found, *beside} & set(files)
    return graph


def circle(graph: Graph) -> list[str]:
    """One circle, from a node back to it; empty where there is none."""
    done: set[str] = set()

    def search(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            found = search(other, [*way, node])
            if found:
                return found
        done.add(node)
        return []

    return next(filter(None, (search(node, []) for node in sorted(graph))), [])


def upward(graph: Graph, layers: tuple[str, ...], separator: str) -> list[str]:
    """What goes from a lower to a higher layer."""

    def layer_of(node: str) -> int:
        fitting = [layer for layer in layers if f"{node}{separator}".startswith(f"{layer}{separator}") or not layer]
        return layers.index(max(fitting, key=len))

    return [
        f"{node} uses {other}" for node, others in graph.items() for other in others if layer_of(node) < layer_of(other)
    ]


def tree(name: str) -> tuple[Graph, str]:
    """The graph of a folder of the repository, named from there, and what separates the parts of a name."""
    if name == "csrc":
        return includes(ROOT / name), "/"
    graph = python_imports(ROOT / name)
    return {node[len(name) + 1 :]: {other[len(name) + 1 :] for other in others} for node, others in graph.items()}, "."


@pytest.mark.parametrize("name", LAYERS)
def test_no_circle(name: str) -> None:
    graph, _ = tree(name)
    assert len(graph) > 30 and sum(map(len, graph.values())) > 60
    assert circle(graph) == []


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_uses_a_higher_layer(name: str) -> None:
    graph, separator = tree(name)
    assert upward(graph, LAYERS[name], separator) == []
    unused = [layer for layer in LAYERS[name] if not any(node.startswith(layer) for node in graph)]
    assert unused == []


def test_no_folder_has_too_many_files() -> None:
    """Of sources; about fifteen can be looked through."""
    folders = [folder for name in LAYERS for folder in (ROOT / name, *(ROOT / name).rglob("*")) if folder.is_dir()]
    suffixes = (".py", ".h", ".cpp", ".cu", ".cuh")
    counts = {str(folder): sum(file.suffix in suffixes for file in folder.iterdir()) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > 16} == {}


def test_planted_circles_and_ways_up_are_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "low").mkdir(parents=True)
    (package / "__init__.py").write_text("from .high import function\n")
    (package / "low" / "__init__.py").touch()
    (package / "low" / "base.py").write_text("import os\n")
    (package / "high.py").write_text("from .low import base\nfrom package.low.base import os\n")
    graph = python_imports(package)
    assert graph["package.high"] == {"package.low.base"} and circle(graph) == []
    assert upward(graph, ("package.low", "package.high", ""), ".") == []
    (package / "low" / "base.py").write_text("def function():\n    from .. import high\n")
    graph = python_imports(package)
    assert circle(graph) == ["package.high", "package.low.base", "package.high"]
    assert upward(graph, ("package.low", "package.high", ""), ".") == ["package.low.base uses package.high"]

    sources = tmp_path / "csrc"
    (sources / "a").mkdir(parents=True)
    (sources / "a" / "one.h").write_text('#include "two.h"\n#include <vector>\n')
    (sources / "a" / "two.h").write_text('#pragma once\n#include "b.h"\n')
    (sources / "b.h").touch()
    assert circle(includes(sources)) == []
    (sources / "b.h").write_text('#include "a/one.h"\n')
    assert circle(includes(sources)) == ["a/one.h", "a/two.h", "b.h", "a/one.h"]
