"""Compiles crossd_ops/lib/libcrossd_ops.so (operators, kernels) and crossd_ops/_C (build facts).

CROSSD_CUDA           0: CPU kernels alone; 1: CUDA kernels too, an error without nvcc; auto (default): where nvcc is
CROSSD_BINDINGS       0: without crossd_ops._C, which fits one Python version: the wheel is then for every one
TORCH_CUDA_ARCH_LIST  as everywhere in PyTorch, PTX of the newest added; default: those of 8.0;9.0;10.0 that nvcc knows
CUDA_HOME, CXX, MAX_JOBS  as everywhere in PyTorch
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

from build_backend import check_environment, fail, run

TORCH_TARGET = (2, 11)  # the LibTorch stable ABI of this release: the binary runs on it and on every later one
LIBRARY = "crossd_ops.lib.libcrossd_ops"
BINDINGS = os.environ.get("CROSSD_BINDINGS") != "0"
DEFAULT_ARCHITECTURES = ("8.0", "9.0", "10.0")
BUILDING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}.intersection(sys.argv)

CUDA_HOME = check_environment() if BUILDING else None  # the toolkit's folder where CUDA kernels are built
if BUILDING:
    import torch
    from torch.utils import cpp_extension

    # The environment's own ninja, also where the environment is not activated.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    cpp_extension.CUDA_HOME = CUDA_HOME  # CPU-only torch looks for none, and others take a wrapper's folder for it
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH_TARGET:
        fail(f"expected torch {TORCH_TARGET[0]}.{TORCH_TARGET[1]} or newer, got {torch.__version__}")


def cuda_version() -> str:
    version = re.search(r"release (\d+)(\.\d+)", run(f"{CUDA_HOME}/bin/nvcc", "--version"))
    if version is None:
        fail(f"{CUDA_HOME}/bin/nvcc does not tell its version; set CUDA_HOME to a working toolkit, or CROSSD_CUDA=0")
    ours, theirs = f"{version[1]}{version[2]}", torch.version.cuda
    if theirs and int(version[1]) > int(theirs.split(".")[0]):  # a driver for torch's CUDA may be too old for ours
        advice = f"set CUDA_HOME to a toolkit of CUDA {theirs}, or CROSSD_CUDA=0"
        fail(f"nvcc {ours} is newer than the CUDA {theirs} of the installed torch; {advice}")
    # An older toolkit does well: the library shares no CUDA runtime with torch. torch's own check would refuse it.
    cpp_extension._check_cuda_version = lambda *arguments: None
    return ours


def architecture_flags() -> list[str]:
    requested = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").strip(";")
    if not requested:
        known = run(f"{CUDA_HOME}/bin/nvcc", "--list-gpu-arch").split()
        requested = ";".join(arch for arch in DEFAULT_ARCHITECTURES if f"compute_{arch.replace('.', '')}" in known)
    if re.fullmatch(r"(\d+\.\d+;)*\d+\.\d+", requested):
        newest = max(requested.split(";"), key=lambda arch: [int(part) for part in arch.split(".")])
        requested += f";{newest}+PTX"
    os.environ["TORCH_CUDA_ARCH_LIST"] = requested
    try:
        return cpp_extension._get_cuda_arch_flags()
    except (ValueError, IndexError):
        fail(f'TORCH_CUDA_ARCH_LIST: expected architectures such as "8.0;9.0+PTX", got "{requested}"')


def library(architectures: list[str]) -> Extension:
    sources = Path("csrc/sources.txt").read_text().split()
    definitions = [f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000"]
    # -g0: Python's own flags ask for debug information. -isystem: no warnings from torch's headers.
    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
    cxx += [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    nvcc, link, folders = [], [], cpp_extension.library_paths()
    if CUDA_HOME:
        definitions += ["-DCROSSD_WITH_CUDA", "-DUSE_CUDA"]
        cxx += ["-isystem", f"{CUDA_HOME}/include"]
        # Compressed, since line information makes the kernels 2.7 times as large: 70 MB, compressed 15.
        nvcc = ["-O3", "-lineinfo", "-Xfatbin=-compress-all", "--threads=2", *architectures]
        nvcc += ["-Xcompiler=-Wall,-Wextra,-fvisibility=hidden"]
        # A static CUDA runtime, its symbols kept inside: loads with CPU-only torch too, and beside torch's own runtime.
        link = ["-Wl,--exclude-libs,ALL", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        folders += [folder for name in ("lib64", "lib") if os.path.isdir(folder := f"{CUDA_HOME}/{name}")]
    else:
        sources = [source for source in sources if not source.endswith(".cu")]
    return Extension(
        LIBRARY,
        sources,
        depends=[str(path) for path in Path("csrc").rglob("*")],
        include_dirs=[os.path.abspath("csrc")],
        library_dirs=folders,
        # Named first: torch's libraries happen to offer parts of the C++ standard library, without their versions.
        libraries=["stdc++", "torch_cpu", "c10"],
        extra_compile_args={"cxx": cxx + definitions, "nvcc": nvcc + definitions},
        extra_link_args=["-Wl,-soname,libcrossd_ops.so", *link],  # else C++ programs would note its path
        language="c++",
    )


def architecture_names(flags: list[str]) -> list[str]:
    """-gencode=arch=compute_90,code=sm_90 is sm_90; compute_90 stands for PTX."""
    return [flag.rsplit("code=", 1)[1] for flag in flags]


def bindings(version: str | None, architectures: list[str]) -> list[Extension]:
    if not BINDINGS:
        return []
    try:
        import pybind11
    except ImportError:
        print("crossd_ops: pybind11 is not installed: crossd_ops._C (build facts) is left out; nothing else needs it")
        return []
    flags = ["-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
    if version:
        names = ";".join(architecture_names(architectures))
        flags += [f'-DCROSSD_CUDA_VERSION="{version}"', f'-DCROSSD_CUDA_ARCHITECTURES="{names}"']
    return [
        Extension(
            "crossd_ops._C",
            ["csrc/bindings.cpp"],
            include_dirs=[os.path.abspath("csrc"), pybind11.get_include()],
            extra_compile_args=flags,
            language="c++",
            optional=True,
        )
    ]


def build_facts(cuda: str | None, architectures: list[str]) -> dict[str, object]:
    """What crossd_ops/lib/build.json says beside the library, for readers that may not be able to load it."""
    compiler = run(*shlex.split(os.environ.get("CXX", "c++")), "--version").splitlines()
    return {
        "compiler": compiler[0] if compiler else "unknown",
        "platform": sysconfig.get_platform(),
        "torch_target": ".".join(map(str, TORCH_TARGET)),
        "torch_compiled_with": str(torch.__version__),
        "cuda_version": cuda,
        "cuda_architectures": architecture_names(architectures),
    }


def build_command(facts: dict[str, object]) -> type:
    class BuildExtension(cpp_extension.BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            os.makedirs("crossd_ops/lib", exist_ok=True)  # in-place builds copy into it
            # One folder for all kinds of builds: ninja compiles only what changed. Another torch has other headers.
            self.build_temp = f"build/objects-torch{torch.__version__}-{sys.implementation.cache_tag}"

        def run(self) -> None:
            super().run()
            text = json.dumps({"version": self.distribution.get_version(), **facts}, indent=2)
            Path(self.get_ext_fullpath(LIBRARY)).with_name("build.json").write_text(text + "\n")

        def get_ext_filename(self, name: str) -> str:  # the library is no Python module and has no suffix of one
            path = super().get_ext_filename(name)
            return path if name.endswith("_C") else f"{path.split('.', 1)[0]}.so"

        def build_extension(self, extension: Extension) -> None:
            if extension.name == "crossd_ops._C":
                extension.extra_compile_args.append(f'-DCROSSD_VERSION="{self.distribution.get_version()}"')
            try:
                super().build_extension(extension)
            except Exception as error:
                if not extension.optional:
                    fail(f"the compiler's messages above say why {extension.name} was not built ({error})")
                print(f"crossd_ops: {extension.name} was not built and is left out; nothing else needs it ({error})")

    return BuildExtension


class BuildPython(build_py):
    """Puts what C++ projects need into the package: a prefix with headers and CMake files beside the library."""

    def run(self) -> None:
        if self.editable_mode:  # crossd_ops.library.cmake points to the checkout
            return super().run()
        package = Path(self.build_lib, "crossd_ops")
        shutil.rmtree(package, ignore_errors=True)  # all that lies there goes into a wheel, also what is no more
        super().run()
        shutil.copytree("csrc/include", package / "include")
        shutil.copytree("cmake", package / "lib" / "cmake" / "crossd_ops")


class BuildWheel(bdist_wheel):
    """Without bindings nothing in the wheel is tied to a Python, and the library says which systems can load it."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        library = Path(self.get_finalized_command("build_ext").get_ext_fullpath(LIBRARY))
        if BINDINGS or not library.exists():  # editable installs ask before the build
            return tag
        # PEP 600: the newest symbol version of glibc that the library refers to; 2.17 is the oldest in use.
        versions = re.findall(rb"\0GLIBC_2\.(\d+)(?:\.\d+)?(?=\0)", library.read_bytes())
        glibc = max(17, *map(int, versions))
        return "py3", "none", tag[2].replace("linux_", f"manylinux_2_{glibc}_", 1)


def main() -> None:
    if not BUILDING:  # metadata and source distributions need no torch
        return setup()
    version, architectures = (cuda_version(), architecture_flags()) if CUDA_HOME else (None, [])
    print(f"crossd_ops: building for torch {torch.__version__}, CUDA kernels: {version or 'none'}")
    extensions = [library(architectures), *bindings(version, architectures)]
    build_extension = build_command(build_facts(version, architectures))
    commands = {"build_ext": build_extension, "build_py": BuildPython, "bdist_wheel": BuildWheel}
    setup(ext_modules=extensions, cmdclass=commands)


main()
