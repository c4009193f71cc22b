"""The one place that imports the CSP library, after checking that it is the maintained one.

Two distributions install a package called `constraint`; the old one, or the rest that its removal leaves, imports fine and
then misses classes.
"""

from __future__ import annotations

import constraint

from .errors import PlacementError

if not hasattr(constraint, "OptimizedBacktrackingSolver"):
    raise PlacementError(
        "the package `constraint` is not the one of python-constraint2",
        hint="pip uninstall -y python-constraint python-constraint2"
        " && pip install --force-reinstall python-constraint2",
    )

Constraint = constraint.Constraint
CspProblem = constraint.Problem
Solver = constraint.Solver
BacktrackingSolver = constraint.OptimizedBacktrackingSolver

__all__ = ["BacktrackingSolver", "Constraint", "CspProblem", "Solver"]
