"""Prices from a linear program: the relaxation that `bounds` prices by Newton's method, solved to a vertex by HiGHS.

For who wants the last decimals of the bound (extra `lp`). Whatever HiGHS returns is only a proposal: prices prove a bound by
weak duality, which `bounds` takes from them itself. One thread and a limit of iterations instead of a clock, so that the same
relaxation gives the same prices.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from .errors import PlacementError
from .relaxation import Relaxed, Vector

ITERATIONS = 200_000
"""Simplex steps at most."""


def lp_prices(relaxed: Relaxed) -> Vector:
    """Prices >= 0 of the priced rows, per part of a limit; all 0 where HiGHS found none.

    Raises:
        PlacementError: highspy is not installed.
    """
    highspy = _library()
    nothing = np.zeros(len(relaxed.limits))
    if not len(nothing):
        return nothing
    highs = highspy.Highs()
    for option, value in _OPTIONS.items():
        highs.setOptionValue(option, value)
    highs.passModel(_program(relaxed, highspy.HighsLp()))
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return nothing
    duals = np.asarray(highs.getSolution().row_dual, dtype=np.float64)
    return np.maximum(-duals[: len(nothing)], 0.0)


def _library() -> Any:
    try:
        return import_module("highspy")
    except ModuleNotFoundError as error:
        hint = "pip install 'shardyard[lp]'"
        raise PlacementError("highspy is not installed", hint=hint) from error


_OPTIONS = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "simplex_iteration_limit": ITERATIONS,
}


def _program(relaxed: Relaxed, program: Any) -> Any:
    """The least of -value . x: first the priced rows, then one row a model for its copies; columns are candidates."""
    columns, rows = relaxed.usage.shape
    models = len(relaxed.starts)
    program.num_col_, program.num_row_ = columns, rows + models
    program.col_cost_ = -relaxed.values
    program.col_lower_ = np.zeros(columns)
    program.col_upper_ = np.repeat(relaxed.most, relaxed.counts)
    program.row_lower_ = np.concatenate([np.full(rows, -np.inf), relaxed.least])
    program.row_upper_ = np.concatenate([relaxed.limits, relaxed.most])
    _fill(program.a_matrix_, relaxed)
    return program


def _fill(matrix: Any, relaxed: Relaxed) -> None:
    """Column by column, what a candidate takes of rows, and 1 for its model."""
    columns, rows = relaxed.usage.shape
    own = rows + np.repeat(np.arange(len(relaxed.starts)), relaxed.counts)
    who, row = np.nonzero(relaxed.usage)
    column = np.append(who, np.arange(columns))
    order = np.argsort(column, kind="stable")
    taken = np.append(relaxed.usage[who, row], np.ones(columns))
    matrix.start_ = np.append(0, np.cumsum(np.bincount(column, minlength=columns))).astype(np.int32)
    matrix.index_ = np.append(row, own)[order].astype(np.int32)
    matrix.value_ = taken[order]
