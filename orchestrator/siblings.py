"""Refuses to start half of us: `actors` and `placement` must be the ones that stand beside this package.

Other distributions and a user's own folder may carry these generic names and be found first. Runs at the first import,
so it imports nothing but the standard library until something is wrong.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

SIBLINGS = ("placement", "actors")


def shadowed(home: Path) -> list[tuple[str, Path, Path | None]]:
    """The siblings that Python would not take from `home`: name, where it should be, where it was found.

    Args:
        home: the folder in which the three packages stand.
    """
    places = [(name, home / name, _found(name)) for name in SIBLINGS]
    return [row for row in places if row[2] is None or row[1].resolve() != row[2].resolve()]


def check_siblings(home: Path | None = None) -> None:
    """Raises one clear error when a sibling is missing or hidden by another package of the same name.

    Raises:
        InstallError: naming both places and the cure.
    """
    wrong = shadowed(home or Path(__file__).parent.parent)
    if wrong:
        raise _error(wrong)


def _found(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        # A module without a spec was put into sys.modules by hand; its origin is unknown.
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0]) if folders else Path(spec.origin or "")


def _error(wrong: list[tuple[str, Path, Path | None]]) -> Exception:
    name, expected, found = wrong[0]
    where = f"Python finds {found} instead" if found is not None else "Python finds none"
    says = f"shardyard's package `{name}` is {expected}, but {where}"
    hint = (
        f"rename {found}, uninstall the distribution that brings it, or start from another folder"
        if found is not None
        else "install shardyard again: pip install --force-reinstall shardyard"
    )
    fields = {"package": name, "expected": str(expected), "found": str(found or "")}
    return _install_error(
        says, hint, fields, shadows_errors=any(w[0] == "placement" for w in wrong)
    )


def _install_error(
    says: str, hint: str, fields: dict[str, str], *, shadows_errors: bool
) -> Exception:
    if shadows_errors:
        # The error tree itself lives in the package that is hidden.
        return ImportError(f"{says}\nhint: {hint}", name=fields["package"], path=fields["found"])
    from .errors import InstallError

    error = InstallError(says, hint=hint, **fields)
    # A job that imports us ends with a traceback, where nobody prints the hint.
    error.add_note(f"hint: {hint}")
    return error
