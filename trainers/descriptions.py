"""The description of each field of a spec: the docstring that follows the field in its class.

They are read from the source when they are needed. Pydantic's `use_attribute_docstrings` would read all of
them whenever the specs are imported.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from trainers.spec import Spec


@cache
def descriptions(spec: type[Spec]) -> dict[str, str]:
    """The description of each field that has one, also where a base class declares the field."""
    found: dict[str, str] = {}
    for base in reversed(spec.__mro__):
        if issubclass(base, Spec):
            found |= attribute_docstrings(base)
    return {name: found[name] for name in spec.model_fields if name in found}


@cache
def attribute_docstrings(cls: type[Spec]) -> dict[str, str]:
    """The docstrings that follow annotated attributes in the body of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for before, after in pairwise(definition.body):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found
