"""The documentation holds: every code block in it runs, links and pictures are there, texts of errors are the code's.

Shell blocks: on the page about C++ they run as they stand; elsewhere `python -m crossd_ops` runs, goals of make are
asked for without being made, options of other programs are looked up in their help, what pip is to install is parsed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cmake_torch
import model_zoo
import pytest

import crossd_ops

ROOT = Path(__file__).absolute().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CPP_PAGE = ROOT / "docs" / "cpp.md"
SOURCE_PATTERNS = ("crossd_ops/**/*.py", "*.py", "csrc/**/*.h", "cmake/*")
# Commands that the tests of the documentation run are those of this interpreter's environment.
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    result = [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in found]
    assert text.count("```") == 2 * len(result), f"{page.name}: a block is indented, or not closed"
    return result


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


@each_page
def test_every_block_is_of_a_kind_that_is_tested(page: Path) -> None:
    known = {"python", "sh", "text", "math"} | ({"cpp", "cmake"} if page == CPP_PAGE else set())
    assert {block.language for block in blocks(page)} <= known


# --- Python ---


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=page_name)
def test_python_blocks_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "import torchvision" in page.read_text() or "from torchvision" in page.read_text():
        model_zoo.library("torchvision")
    for package in ("onnxruntime", "onnxscript"):
        if "onnx" in page.read_text():
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # blocks write files
    namespace: dict[str, object] = {"__name__": page.stem}
    found = blocks(page)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = io.StringIO()
        # Blank lines in front: a traceback then tells the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if after is not None and after.language == "text":
            assert printed.getvalue() == after.text, f"{page.name}:{after.line}"


# --- shell ---


def output(command: list[str] | str, folder: Path = ROOT) -> str:
    """What a command prints; it has to succeed."""
    result = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def help_of(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit, match=r"^0$"):
        run()
    return printed.getvalue()


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a command of the documentation would not work, and where there is no way to tell."""
    while "=" in words[0]:  # variables of the environment
        words = words[1:]
    if words[0] == "make":
        output(["make", "--dry-run", *words[1:]])
    elif words[:2] == ["pip", "install"]:
        check_requirements([word for word in words[2:] if word not in ("-e", "--no-build-isolation")])
    elif words[:4] == ["python", "-m", "crossd_ops", "profile"]:  # of a network that may be not there, for minutes
        check_options(words[4:], output([*words[:4], "--help"]))
    elif words[:3] == ["python", "-m", "crossd_ops"]:
        assert output(words)
    elif words[:3] == ["python", "-m", "pytest"]:
        missing = [word for word in words[3:] if word.startswith("tests/") and not (ROOT / word).exists()]
        assert not missing
    elif "-m" in words or words[0] == "python":
        at = words.index("-m") + 1 if "-m" in words else 1
        run = (lambda: runpy.run_module(words[at], run_name="__main__")) if "-m" in words else None
        text = help_of(run or (lambda: runpy.run_path(str(ROOT / words[at]), run_name="__main__")), monkeypatch)
        check_options(words[at + 1 :], text)
    else:
        pytest.fail(f"no way to check: {shlex.join(words)}")


def check_options(words: list[str], help: str) -> None:
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [option for option in options if not re.search(rf"{option}\b", help)] == []


def check_requirements(words: list[str]) -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for word in words:
        match = re.fullmatch(r"\.(?:\[([\w,]+)\])?|dist/\*\.whl", word)
        assert match, f"expected the package itself, got {word}"
        assert set((match[1] or "").split(",")) - {""} <= set(extras)


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language == "sh":
            lines = block.text.replace("\\\n", " ").splitlines()
            yield from filter(None, (shlex.split(line, comments=True) for line in lines))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```sh" in page.read_text() and page != CPP_PAGE], ids=page_name
)
def test_shell_commands(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)  # where benchmarks are
    for words in commands(page):
        check_command(words, monkeypatch)


@pytest.mark.usefixtures("compiled_library")
def test_cpp_program(tmp_path: Path) -> None:
    cmake_torch.require()
    found = blocks(CPP_PAGE)
    for block in found:
        if block.language in ("cpp", "cmake"):
            name = re.match(r"(?:#|//) (\S+)\n", block.text)
            assert name, f"{CPP_PAGE.name}:{block.line}: the first line names the file"
            (tmp_path / name[1]).write_text(block.text)
    assert {path.name for path in tmp_path.iterdir()} == {"CMakeLists.txt", "main.cpp"}
    for block, after in itertools.pairwise(found):
        if block.language == "sh":
            assert output(f"set -e\n{block.text}", tmp_path).endswith(f"\n{after.text}")


# --- links, pictures, texts ---


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_drawn_and_shown(figures: ModuleType, tmp_path: Path) -> None:
    figures.main(["--out", str(tmp_path)])
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {f"{name}.png" for name in figures.FIGURES}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    shown = set(re.findall(r"\]\(figures/(\S+)\)", (ROOT / "docs" / "mathematics.md").read_text()))
    assert drawn == shown
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_texts_of_errors_are_those_of_the_code() -> None:
    sources = []
    for path in (path for pattern in SOURCE_PATTERNS for path in ROOT.glob(pattern)):
        # Strings that continue on the next line become one.
        sources.append(re.sub(r'["\'],?\s*\n\s*f?["\']', "", path.read_text()))
    headings = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert headings
    for heading in headings:
        parts = [re.escape(part.strip()) for part in heading.split("...") if part.strip()]
        pattern = re.compile("[^\n]{0,300}?".join(parts))
        assert any(pattern.search(source) for source in sources), heading


# --- reference, release ---


def test_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    recipe = output(["make", "--no-print-directory", "--dry-run", "docs"]).splitlines()[-1]
    command = recipe.replace("build/docs", str(tmp_path)).replace(".venv/bin/python", sys.executable)
    result = subprocess.run(command, shell=True, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    page = (tmp_path / "crossd_ops.html").read_text()
    assert [name for name in crossd_ops.__all__ if f'id="{name}"' not in page and f"{name}.html" not in page] == []


def package_version() -> str:
    match = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match
    return match[1]


def test_versions_agree() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == package_version()
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= set(citation)
    assert f"\n## [{package_version()}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda path: path.name)
def test_workflows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"] and workflow[True]  # YAML reads the key "on" as true
    for job in workflow["jobs"].values():
        if "uses" in job:  # another workflow of this repository
            assert (ROOT / job["uses"]).exists()
            continue
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            for line in step.get("run", "").splitlines():
                if line.startswith("make "):
                    check_command(shlex.split(re.sub(r"\$\{\{.*?\}\}", "3", line)), monkeypatch)
