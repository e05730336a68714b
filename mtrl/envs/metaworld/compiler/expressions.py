"""Translates expressions to C, one method for each kind."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtrl.envs.metaworld.compiler.values import (
    BOOL,
    DOUBLE,
    SINGLE,
    Number,
    Object,
    Static,
    Tuple,
    Untranslatable,
    Value,
    c_name,
    common,
    converted,
    is_number,
    pack,
    part,
    size,
    static,
    written,
)

Translate = Callable[[Callable[..., Any], list[Value], dict[str, Value]], Value]
_ARITHMETIC: Mapping[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add), ast.Sub: ("-", operator.sub), ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}  # fmt: skip
_COMPARISONS: Mapping[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt), ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq), ast.NotEq: ("!=", operator.ne), ast.Is: ("", operator.is_),
    ast.IsNot: ("", operator.is_not),
}  # fmt: skip
_DOUBLES = {math.sqrt: "sqrt", math.exp: "exp", math.log: "log", math.sin: "sin", math.cos: "cos"}


class Expressions:
    """Translates the expressions of one function.

    Args:
        translate: returns the call of another function, given that function, its positional and its named arguments.
        space: the function's global names and their values.
    """

    def __init__(self, translate: Translate, space: Mapping[str, Any]) -> None:
        self.translate, self.space = translate, space
        self.names: dict[str, Value] = {}
        self.variables: dict[str, str] = {}
        self.lines: list[str] = []

    def value(self, node: ast.expr) -> Value:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise Untranslatable("this kind of expression has no translation")
        return method(node)

    def condition(self, node: ast.expr) -> Value:
        """A static value, or a C int."""
        value = self.value(node)
        return value if isinstance(value.type, Static) else converted(value, BOOL)

    def simple(self, value: Value) -> Value:
        """The value in a form that can be used several times without being computed again."""
        return value if isinstance(value.type, Static | Object) or value.simple else self.copied(value)

    def copied(self, value: Value) -> Value:
        """The value, after it has been stored in a new variable."""
        # There is no clash with the function's own variables, which end with an underscore.
        name = f"t{len(self.variables)}"
        self.variables[name] = c_name(value.type)
        self.lines.append(f"{name} = {value.code};")
        return Value(value.type, name)

    def _constant(self, node: ast.Constant) -> Value:
        return static(node.value)

    def _name(self, node: ast.Name) -> Value:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in self.space:
            return static(self.space[node.id])
        return static(getattr(builtins, node.id))

    def _attribute(self, node: ast.Attribute) -> Value:
        owner = self.value(node.value)
        match owner.type:
            case Static(value):
                return static(getattr(value, node.attr))
            case Object(fields=fields) if node.attr in fields:
                return Value(fields[node.attr], f"{owner.code}->{node.attr}")
            case Tuple(names=names) if node.attr in names:
                return part(self._divisible(owner), names.index(node.attr))
        raise Untranslatable(f"the attribute `{node.attr}` is not known")

    def _tuple(self, node: ast.Tuple) -> Value:
        parts = self._parts(node.elts)
        if all(isinstance(value.type, Static) for value in parts):
            return static(tuple(value.type.value for value in parts if isinstance(value.type, Static)))
        return pack([written(value) for value in parts])

    def _parts(self, nodes: Sequence[ast.expr]) -> list[Value]:
        """The values of a tuple display or of arguments, with each ``*`` expanded."""
        parts = []
        for node in nodes:
            match node:
                case ast.Starred(ast.GeneratorExp(element, [ast.comprehension(ast.Name(name), source, [], 0)])):
                    outside = dict(self.names)
                    for value in self._spread(source):
                        self.names[name] = value
                        parts.append(self.value(element))
                    self.names = outside
                case ast.Starred(source):
                    parts += self._spread(source)
                case _:
                    parts.append(self.value(node))
        return parts

    def _spread(self, node: ast.expr) -> list[Value]:
        whole = self._divisible(self.value(node))
        return [part(whole, i) for i in range(size(whole))]

    def _divisible(self, value: Value) -> Value:
        return value if value.parts else self.simple(value)

    def _subscript(self, node: ast.Subscript) -> Value:
        whole = self._divisible(self.value(node.value))
        if isinstance(node.slice, ast.Slice):
            ends = (node.slice.lower, node.slice.upper, node.slice.step)
            chosen = slice(*(None if end is None else self._index(end) for end in ends))
            if isinstance(whole.type, Static):
                return static(whole.type.value[chosen])
            return pack([part(whole, i) for i in range(size(whole))[chosen]])
        index = self._index(node.slice)
        if not -size(whole) <= index < size(whole):
            raise Untranslatable(f"index {index} of a tuple of {size(whole)}")
        return part(whole, index)

    def _index(self, node: ast.expr) -> int:
        match self.value(node).type:
            case Static(int(value)):
                return value
        raise Untranslatable("the index is not known at compile time")

    def _binop(self, node: ast.BinOp) -> Value:
        if type(node.op) not in _ARITHMETIC:
            raise Untranslatable("this operator has no translation")
        sign, function = _ARITHMETIC[type(node.op)]
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(left.type, Static) and isinstance(right.type, Static):
            return static(function(left.type.value, right.type.value))
        kind = common(left, right)
        kind = DOUBLE if kind == BOOL else kind
        code = f"({_number(left, kind)} {sign} {_number(right, kind)})"
        return Value(kind, f"(float){code}" if kind == SINGLE else code)

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            value = self.condition(node.operand)
            return static(not value.type.value) if isinstance(value.type, Static) else Value(BOOL, f"!{value.code}")
        value = self.value(node.operand)
        if not isinstance(node.op, ast.USub) or not is_number(value):
            raise Untranslatable("this operator has no translation")
        return static(-value.type.value) if isinstance(value.type, Static) else Value(value.type, f"(-{value.code})")

    def _boolop(self, node: ast.BoolOp) -> Value:
        keeps, sign = (True, " && ") if isinstance(node.op, ast.And) else (False, " || ")
        codes = []
        for value in map(self.condition, node.values):
            if not isinstance(value.type, Static):
                codes.append(value.code)
            elif not isinstance(value.type.value, bool):
                raise Untranslatable("`and` and `or` take only truth values, since Python returns one of the operands")
            elif value.type.value != keeps:
                # The other values have no side effects, so they need no evaluation.
                return static(not keeps)
        return Value(BOOL, f"({sign.join(codes)})") if codes else static(keeps)

    def _compare(self, node: ast.Compare) -> Value:
        values = [self.value(part) for part in (node.left, *node.comparators)]
        if all(isinstance(value.type, Static) for value in values):
            known = [value.type.value for value in values if isinstance(value.type, Static)]
            pairs = zip(node.ops, known[:-1], known[1:], strict=True)
            return static(all(_COMPARISONS[type(sign)][1](one, other) for sign, one, other in pairs))
        # A value that is computed in C is never None or another static object.
        if any(isinstance(sign, ast.Is | ast.IsNot) for sign in node.ops):
            return static(isinstance(node.ops[0], ast.IsNot))
        values = [values[0], *(self.simple(value) for value in values[1:-1]), values[-1]]
        codes = []
        for sign, one, other in zip(node.ops, values[:-1], values[1:], strict=True):
            kind = common(one, other)
            codes.append(f"{_number(one, kind)} {_COMPARISONS[type(sign)][0]} {_number(other, kind)}")
        return Value(BOOL, f"({' && '.join(codes)})")

    def _ifexp(self, node: ast.IfExp) -> Value:
        test = self.condition(node.test)
        if isinstance(test.type, Static):
            return self.value(node.body if test.type.value else node.orelse)
        one, other = self.value(node.body), self.value(node.orelse)
        kind = common(one, other)
        return Value(kind, f"({test.code} ? {converted(one, kind).code} : {converted(other, kind).code})")

    def _call(self, node: ast.Call) -> Value:
        callee = self.value(node.func).type
        if not isinstance(callee, Static):
            raise Untranslatable("the called function is not known at compile time")
        if any(word.arg is None for word in node.keywords):
            raise Untranslatable("arguments given as **named")
        named = {str(word.arg): self.value(word.value) for word in node.keywords}
        return self.call(callee.value, self._parts(node.args), named)

    def call(self, function: Any, given: list[Value], named: dict[str, Value]) -> Value:
        if isinstance(function, functools.partial):
            bound = {name: static(value) for name, value in function.keywords.items()}
            return self.call(function.func, [*map(static, function.args), *given], bound | named)
        if inspect.isfunction(function):
            return self.translate(function, given, named)
        names: tuple[str, ...] = getattr(function, "_fields", ())
        if names:
            ordered = [*given, *(named[name] for name in names[len(given) :])]
            return pack([converted(value, DOUBLE) for value in ordered], names)
        if named:
            raise Untranslatable(f"a call of `{function}` with named arguments")
        return self._builtin(function, given)

    def _builtin(self, function: Any, given: list[Value]) -> Value:
        if function is len:
            return static(size(given[0]))
        if not all(map(is_number, given)):
            raise Untranslatable(f"a call of `{function}` with {[value.type for value in given]}")
        if function in (min, max) and len(given) == 2:
            known = [value.type.value for value in given if isinstance(value.type, Static)]
            if len(known) == 2:
                return static(function(*known))
            kind = DOUBLE if common(*given) == BOOL else common(*given)
            code = f"{'least' if function is min else 'most'}_{kind.name}" if isinstance(kind, Number) else ""
            return Value(kind, f"{code}({_number(given[0], kind)}, {_number(given[1], kind)})")
        if len(given) != 1:
            raise Untranslatable(f"a call of `{function}` with {len(given)} values")
        value = given[0]
        if function is abs:
            value = written(value)
            return Value(value.type, f"{'fabsf' if value.type == SINGLE else 'fabs'}({value.code})")
        if function is float:
            return Value(DOUBLE, f"(double){written(value).code}")
        if function is bool:
            return Value(BOOL, f"({written(value).code} != 0)")
        if function is np.float32:
            return Value(SINGLE, f"(float){converted(value, DOUBLE).code}")
        if function is math.isnan:
            return Value(BOOL, f"(isnan({written(value).code}) != 0)")
        if function in _DOUBLES:
            return Value(DOUBLE, f"{_DOUBLES[function]}({converted(value, DOUBLE).code})")
        raise Untranslatable(f"`{function}` has no translation")


def _number(value: Value, kind: Any) -> str:
    if not is_number(value):
        raise Untranslatable(f"a number is needed, not {value.type}")
    return converted(value, kind).code
