"""Where C++ projects find the package; how to link is told in the header, crossd_ops/crossd_ops.h."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = (_PACKAGE / "include").is_dir()  # else a checkout, built in place

cmake_prefix_path: str = str(_PACKAGE if _INSTALLED else _PACKAGE.parent)
"""For CMAKE_PREFIX_PATH, beside torch.utils.cmake_prefix_path: find_package(crossd_ops CONFIG) looks there."""

include_path: str = str(_PACKAGE / "include" if _INSTALLED else _PACKAGE.parent / "csrc" / "include")
"""The folder for a compiler's -I, as in torch.utils.cpp_extension.CppExtension(include_dirs=[...])."""
