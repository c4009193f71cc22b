"""Stands in for the module of that name."""

from . import RBLNCompiledModel


class CompileContext(RBLNCompiledModel):
    """Cannot be made."""
