"""Sums in the tasks' rewards, and the rewards without one of their terms."""

from __future__ import annotations

import ast
import inspect
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import pytest

from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.base import RewardVersion

_PACKAGE = "mtrl.envs.metaworld.tasks."


class Term(NamedTuple):
    """The second operand of the ``number``-th sum or difference in a function."""

    function: Any
    number: int

    @property
    def text(self) -> str:
        return ast.unparse(_sums(_module(self.function))[self.number])


def terms(task: str, version: RewardVersion) -> list[Term]:
    """The terms of a reward: in its function, and in all functions of the tasks that it calls."""
    reached = _functions(TASKS[task].reward(version))
    for one in reached:
        reached += [other for other in _called(one) if other not in reached]
    return [Term(one, number) for one in reached for number in range(len(_sums(_module(one))))]


def _functions(value: Any) -> list[FunctionType]:
    """A function, or those in a partial object and in its arguments."""
    if isinstance(value, partial):
        return [one for part in (value.func, *value.args) for one in _functions(part)]
    return [value] if isinstance(value, FunctionType) else []


def remove(term: Term, patch: pytest.MonkeyPatch) -> None:
    """Take the term out of its function, wherever it is called."""
    tree = _module(term.function)
    target = _sums(tree)[term.number]

    class Remover(ast.NodeTransformer):
        def visit_BinOp(self, node: ast.BinOp) -> Any:
            return node.left if node is target else self.generic_visit(node)

    space = dict(term.function.__globals__)
    exec(compile(Remover().visit(tree), "<without a term>", "exec"), space)
    patch.setattr(term.function, "__code__", space[term.function.__name__].__code__)


def _called(function: FunctionType) -> list[FunctionType]:
    space = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    modules = [value for value in space.values() if inspect.ismodule(value) and value.__name__.startswith(_PACKAGE)]
    named = [*space.values(), *(vars(module).get(name) for module in modules for name in space)]
    return [one for one in named if isinstance(one, FunctionType) and one.__module__.startswith(_PACKAGE)]


def _module(function: FunctionType) -> ast.Module:
    return ast.parse(inspect.getsource(function))


def _sums(tree: ast.Module) -> list[ast.BinOp]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)]
