"""From what went wrong to its cause and its cure, in words: a library that does not load, a GPU without kernels."""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_REINSTALL = "reinstall crossd_ops from its wheel, or from source where a C++ compiler is present"
_MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of the ELF header
_ELF_HEADER = struct.Struct("<4s B 11x H H I Q Q Q I H H H H H H")


class Diagnosis(NamedTuple):
    """What is wrong, and what the user can do."""

    cause: str
    cure: str


class Gpu(NamedTuple):
    """A GPU `number` of torch.cuda; `capability` is (major, minor)."""

    number: int
    name: str
    capability: tuple[int, int]

    @property
    def capability_text(self) -> str:
        """Such as "9.0", as TORCH_CUDA_ARCH_LIST names it."""
        return f"{self.capability[0]}.{self.capability[1]}"


def file_problem(library: Path) -> Diagnosis | None:
    """What is wrong with the file itself: loading one that was cut short would end the process with a bus error."""
    if not library.exists():
        return Diagnosis(f"{library} does not exist", _REINSTALL)
    with library.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
    size = library.stat().st_size
    if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF\x02"):
        return Diagnosis(f"{library} does not load: it is no 64-bit ELF library ({size} bytes)", _REINSTALL)
    fields = _ELF_HEADER.unpack(header)
    machine, sections_at, section_size, section_count = fields[3], fields[7], fields[11], fields[12]
    built, here = _MACHINES.get(machine, f"ELF machine {machine}"), platform.machine()
    if here in _MACHINES.values() and built != here:
        return Diagnosis(f"{library} does not load: it was built for {built}, this machine is {here}", _REINSTALL)
    expected = sections_at + section_size * section_count  # linkers put the section headers last
    if size < expected:
        return Diagnosis(f"{library} does not load: it was cut short, {size} bytes of {expected}", _REINSTALL)
    return None


def load_problem(library: Path, message: str, torch_version: str, facts: dict[str, Any] | None) -> Diagnosis:
    """Why the dynamic linker refused the library; `message` is its text."""
    target = (facts or {}).get("torch_target", "unknown")
    if _release(torch_version) < _release(target):
        cause = f"it was built for torch {target} or newer, and torch {torch_version} runs"
        cure = f'install a newer torch ("torch>={target}"), or a crossd_ops that fits this one'
    elif symbol := re.search(r"undefined symbol: (\S+)", message):
        cause = f"it was built for torch {target} or newer, and torch {torch_version} has no symbol {symbol[1]}"
        cure = "reinstall crossd_ops from source in this environment, against the torch that runs"
    elif system := re.search(r"version `(\S+)' not found", message):
        cause = f"it was built for a newer Linux: the C or C++ library of this system has no {system[1]}"
        cure = "reinstall crossd_ops from source on this system"
    elif missing := re.search(r"(\S+): cannot open shared object file", message):
        cause = f"it needs {missing[1]}, which was not found"
        cure = "reinstall torch, whose parts it links, or install what is missing"
    else:
        cause, cure = message.strip(), _REINSTALL
    return Diagnosis(f"{library} does not load: {cause}", cure)


def gpu_problem(gpus: Sequence[Gpu], driver_cuda: str | None, facts: dict[str, Any] | None) -> Diagnosis | None:
    """Why the kernels that were built do not run on these GPUs; None where they do, or nothing is known of the build.

    `driver_cuda` is the newest CUDA that the driver supports, None where torch does not tell.
    """
    built = (facts or {}).get("cuda_version")
    if facts is None or not built or not gpus:
        return None
    if driver_cuda and _release(driver_cuda)[0] < _release(built)[0]:
        major = _release(driver_cuda)[0]
        return Diagnosis(
            f"its kernels were built with CUDA {built}, and the NVIDIA driver supports CUDA {driver_cuda} at most",
            f"update the driver, or reinstall crossd_ops from source with a toolkit of CUDA {major} in CUDA_HOME",
        )
    for gpu in gpus:
        if kernels_for(gpu, driver_cuda, facts) is None:
            return Diagnosis(
                f"GPU {gpu.number} ({gpu.name}) has compute capability {gpu.capability_text}, and the kernels were "
                f"built for {', '.join(sorted(facts['cuda_architectures']))}",
                f'reinstall crossd_ops from source with TORCH_CUDA_ARCH_LIST="{gpu.capability_text}", '
                "or hide that GPU with CUDA_VISIBLE_DEVICES",
            )
    return None


def kernels_for(gpu: Gpu, driver_cuda: str | None, facts: dict[str, Any]) -> str | None:
    """The architecture whose kernels this GPU runs, such as sm_80: machine code before PTX, the newest that fits."""
    fitting = []
    for name in facts["cuda_architectures"]:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if match is None:
            continue
        is_code, version, suffix = match[1] == "sm", (int(match[2]), int(match[3])), match[4]
        same_family = version[0] == gpu.capability[0] and version <= gpu.capability
        fits = same_family if is_code or suffix == "f" else version <= gpu.capability
        if suffix == "a":  # features of one architecture alone
            fits = version == gpu.capability
        if not is_code and driver_cuda and _release(driver_cuda) < _release(facts["cuda_version"]):
            fits = False  # an older driver does not know the PTX of a newer toolkit
        if fits:
            fitting.append((is_code, version, name))
    return max(fitting)[2] if fitting else None


def _release(version: str) -> tuple[int, int]:
    """(2, 11) of "2.11.0+cu130"; (0, 0) where there is no such number."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
