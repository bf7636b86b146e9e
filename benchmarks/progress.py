"""A progress bar where tqdm is installed, and nothing where it is not: no benchmark needs it to run."""

from __future__ import annotations

from typing import Any


def progress_bar(**options: Any) -> Any:
    """A bar of tqdm with these options, or an object that takes what a bar is told and shows nothing."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(**options)


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool = True) -> None: ...

    def close(self) -> None: ...
