"""Scalar Python code as C: the same operations on doubles in the same order, and so the same bits.

Python's floats are C's doubles, and both call the same mathematical library. What is known here is what `scalar`
writes, and a little more for the functions that its code calls: assignments, ``if``, conditional expressions,
arithmetic, comparisons, ``and``, ``or``, ``not``, ``sqrt`` and the like. Anything else raises `Untranslatable`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

_OPERATORS: Mapping[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.USub: "-", ast.Not: "!", ast.And: "&&", ast.Or: "||",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_FUNCTIONS = {"abs": "fabs", "_exp": "exp", "_log": "log", "_single": "(float)"}
"""C's own treat what Python's refuse, such as the logarithm of 0, as `scalar` has it."""
_NAMES = {"inf": "INFINITY", "nan": "NAN"}
OUT = "out"
"""The last parameter of a translated function: what Python returns, one number after the other."""


class Untranslatable(TypeError):
    """The code uses what is not known here."""


def translated(source: str, types: Mapping[str, str]) -> str:
    """A function of Python as a ``static void`` one of C.

    Args:
        source: a ``def`` which returns a tuple.
        types: {parameter: its type in C}; ``double`` where not given. Pointers are unpacked by ``a, b, = parameter``.
    """
    (function,) = ast.parse(source).body
    if not isinstance(function, ast.FunctionDef):
        raise Untranslatable(ast.unparse(function))
    parameters = [argument.arg for argument in function.args.args]
    declared = [f"{types.get(name, 'double')} {name}" for name in parameters]
    names = sorted(set(_assigned(function.body)) - set(parameters))
    variables = [f"  double {', '.join(names)};"] if names else []
    lines = [line for statement in function.body for line in _statement(statement)]
    head = f"static void {function.name}({', '.join([*declared, f'double *{OUT}'])}) {{"
    return "\n".join([head, *variables, *lines, "}", ""])


def _assigned(body: Iterable[ast.stmt]) -> Iterator[str]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _statement(node: ast.stmt) -> list[str]:
    match node:
        case ast.Expr(ast.Constant()):  # a docstring
            return []
        case ast.Assign([ast.Name(name)], value):
            return [f"  {name} = {_expression(value)};"]
        case ast.Assign([ast.Tuple(targets)], ast.Name(array)):
            return [f"  {_expression(target)} = {array}[{i}];" for i, target in enumerate(targets)]
        case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)):
            return _together([_expression(target) for target in targets], values)
        case ast.Assign([ast.Tuple(targets)], ast.Call(ast.Name(name), arguments)):
            given = [*map(_expression, arguments), "got"]
            got = [f"{_expression(target)} = got[{i}];" for i, target in enumerate(targets)]
            return [f"  {{ double got[{len(targets)}]; {name}({', '.join(given)}); {' '.join(got)} }}"]
        case ast.Return(ast.Tuple(values)):
            return _together([f"{OUT}[{i}]" for i in range(len(values))], values)
        case ast.If(test, body, otherwise):
            inside, outside = ([line for part in block for line in _statement(part)] for block in (body, otherwise))
            return [f"  if ({_expression(test)}) {{", *inside, "  } else {", *outside, "  }"]
    raise Untranslatable(ast.unparse(node))


def _together(targets: Iterable[str], values: Iterable[ast.expr]) -> list[str]:
    """All values are computed before the first is stored."""
    pairs = list(zip(targets, map(_expression, values), strict=True))
    computed = [f"const double _t{i} = {value};" for i, (_, value) in enumerate(pairs)]
    stored = [f"{target} = _t{i};" for i, (target, _) in enumerate(pairs)]
    return ["  {", *(f"    {line}" for line in (*computed, *stored)), "  }"]


def _expression(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return _NAMES.get(name, name)
        case ast.Constant(bool(value)):
            return str(int(value))
        case ast.Constant(int(value) | float(value)):
            return _NAMES.get(repr(float(value)), repr(float(value)))
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            return f"({_expression(left)} {_OPERATORS[type(operator)]} {_expression(right)})"
        case ast.UnaryOp(operator, operand) if type(operator) in _OPERATORS:
            return f"({_OPERATORS[type(operator)]}{_expression(operand)})"
        case ast.BoolOp(operator, values):
            return f"({f' {_OPERATORS[type(operator)]} '.join(map(_expression, values))})"
        case ast.Compare(left, [operator], [right]) if type(operator) in _OPERATORS:
            return f"({_expression(left)} {_OPERATORS[type(operator)]} {_expression(right)})"
        case ast.IfExp(test, body, otherwise):
            return f"({_expression(test)} ? {_expression(body)} : {_expression(otherwise)})"
        case ast.Call(ast.Name(name) | ast.Attribute(ast.Name("math"), name), [argument], []):
            return f"{_FUNCTIONS.get(name, name)}({_expression(argument)})"
        case ast.Attribute(value, "value"):  # of a c_float
            return f"(double){_expression(value)}"
    raise Untranslatable(ast.unparse(node))
