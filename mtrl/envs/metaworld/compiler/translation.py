"""Translates Python functions, and the functions that they call, to C."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from mtrl.envs.metaworld.compiler.expressions import Expressions
from mtrl.envs.metaworld.compiler.values import (
    Object,
    Static,
    Tuple,
    Type,
    Untranslatable,
    Value,
    c_name,
    common,
    converted,
    pack,
    part,
    settled,
    size,
    written,
)

_HEAD = (
    "#include <math.h>\n"
    "static inline double least_double(double a, double b) { return b < a ? b : a; }\n"
    "static inline double most_double(double a, double b) { return b > a ? b : a; }\n"
    "static inline float least_float(float a, float b) { return b < a ? b : a; }\n"
    "static inline float most_float(float a, float b) { return b > a ? b : a; }\n"
)
"""C functions with the same results as Python's ``min`` and ``max`` of two numbers, also if one is NaN."""


class Program:
    """The C source of several functions and the functions that they call.

    Args:
        objects: the structs to which functions may get pointers.
    """

    def __init__(self, *objects: Object) -> None:
        self._objects = objects
        self._functions: list[str] = []
        self._done: dict[Any, tuple[Value, Any]] = {}
        self._open: list[Any] = []
        self._tuples: dict[str, Tuple] = {}

    def call(self, function: Callable[..., Any], given: list[Value], named: dict[str, Value]) -> Value:
        """A call of a function. The first call with a combination of argument types also translates the function.

        Raises:
            Untranslatable: the function, or one that it calls, uses something that has no translation.
        """
        bound = _signature(function).bind(*given, **named)
        bound.apply_defaults()
        arguments = {name: self._argument(value) for name, value in bound.arguments.items()}
        types = [value.type.key if isinstance(value.type, Static) else value.type for value in arguments.values()]
        key = (function, *types)
        if key in self._open:
            raise Untranslatable(f"{function.__qualname__} calls itself")
        if key not in self._done:
            self._open.append(key)
            # The arguments are kept, since a key has the address of those that are not plain.
            self._done[key] = self._translated(function, arguments), arguments
            self._open.pop()
        result, _ = self._done[key]
        passed = [value.code for value in arguments.values() if not isinstance(value.type, Static)]
        return Value(result.type, f"{result.code}({', '.join(passed)})")

    def source(self) -> str:
        """Everything translated so far, each part after those that it needs."""
        for kind in (kind for owner in self._objects for kind in owner.fields.values()):
            self.declare(kind)
        tuples = [
            _struct(kind.name, {f"a{i}": of for i, of in enumerate(kind.parts)}) for kind in self._tuples.values()
        ]
        objects = [_struct(owner.name, owner.fields) for owner in self._objects]
        return "\n".join([_HEAD, *tuples, *objects, *self._functions])

    def declare(self, kind: Type) -> None:
        """Add the struct of a tuple to the source, unless it is already there."""
        if isinstance(kind, Tuple) and kind.name not in self._tuples:
            for inner in kind.parts:
                self.declare(inner)
            self._tuples[kind.name] = kind

    def _argument(self, value: Any) -> Value:
        if isinstance(value, tuple) and all(isinstance(one, Value) for one in value):  # the arguments of ``*names``
            return pack([settled(one) for one in value])
        return settled(value if isinstance(value, Value) else Value(Static(value)))

    def _translated(self, function: Callable[..., Any], arguments: dict[str, Value]) -> Value:
        """Translate a function. Returns its name in C, with the type of its result."""
        body = _Body(self, function, arguments)
        name = f"{function.__name__.lstrip('_')}_{len(self._functions)}"
        declared = [(to, value.type) for to, value in arguments.items() if not isinstance(value.type, Static)]
        for kind in (*body.types, body.result, *(kind for _, kind in declared)):
            self.declare(kind)
        head = f"static {c_name(body.result)} {name}({', '.join(f'{c_name(kind)} {to}_' for to, kind in declared)}) {{"
        variables = [f"  {kind} {to};" for to, kind in body.variables.items()]
        self._functions.append("\n".join([head, *variables, *(f"  {line}" for line in body.lines), "}", ""]))
        return Value(body.result, name)


class _Body(Expressions):
    """The statements of one function."""

    result: Type
    """The common type of all returned values."""

    def __init__(self, program: Program, function: Callable[..., Any], arguments: dict[str, Value]) -> None:
        if function.__code__.co_freevars:
            raise Untranslatable(f"{function.__qualname__} uses variables of the function around it")
        super().__init__(program.call, function.__globals__)
        self.types: list[Type] = []
        self._function, self._depth = function, 0
        self._returned: dict[int, Value] = {}  # {index of a line, filled in at the end: the value to return there}
        for name, value in arguments.items():
            self.names[name] = value if isinstance(value.type, Static) else Value(value.type, f"{name}_")
        if not self._block(_definition(function).body):
            raise Untranslatable(f"{function.__qualname__} may end without a return")
        for line, value in self._returned.items():
            self.lines[line] = f"return {converted(value, self.result).code};"

    def copied(self, value: Value) -> Value:
        self.types.append(value.type)
        return super().copied(value)

    def _block(self, statements: Sequence[ast.stmt]) -> bool:
        """Translate statements. Returns whether the function always returns in them."""
        for node in statements:
            try:
                if self._statement(node):
                    return True
            except (Untranslatable, AttributeError, KeyError) as error:
                if isinstance(error, Untranslatable) and error.placed:
                    raise
                place = f"{self._function.__module__}.{self._function.__qualname__}"
                problem = Untranslatable(f"{place}: `{ast.unparse(node).splitlines()[0]}`: {error}")
                problem.placed = True
                raise problem from error
        return False

    def _statement(self, node: ast.stmt) -> bool:
        match node:
            case ast.Expr(ast.Constant()) | ast.Pass():
                pass
            case ast.Assign([target], value):
                self._assign(target, self.value(value))
            case ast.Return(ast.expr() as value):
                self._return(self.value(value))
                return True
            case ast.If(test, body, otherwise):
                return self._if(self.condition(test), body, otherwise)
            case _:
                raise Untranslatable("this kind of statement has no translation")
        return False

    def _if(self, test: Value, body: Sequence[ast.stmt], otherwise: Sequence[ast.stmt]) -> bool:
        if isinstance(test.type, Static):
            return self._block(body if test.type.value else otherwise)
        self._depth += 1
        self.lines.append(f"if ({test.code}) {{")
        ends = self._block(body)
        self.lines.append("} else {")
        ends = self._block(otherwise) and ends
        self.lines.append("}")
        self._depth -= 1
        return ends

    def _assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(name):
                self._store(name, settled(value))
            case ast.Tuple(targets):
                whole = self._divisible(value)
                if size(whole) != len(targets):
                    raise Untranslatable(f"{size(whole)} values for {len(targets)} names")
                # As in Python, the values are those before the first assignment.
                parts = [part(whole, i) for i in range(len(targets))]
                stored = {f"{one.id}_" for one in targets if isinstance(one, ast.Name)}
                changed = {one.code for one in parts if one.code.split(".")[0] in stored}
                if not all(isinstance(one, ast.Name) for one in targets):
                    changed = {one.code for one in parts if not isinstance(one.type, Static | Object)}
                parts = [self.copied(one) if one.code in changed else self.simple(one) for one in parts]
                for one, found in zip(targets, parts, strict=True):
                    self._assign(one, found)
            case ast.Attribute(owner, name):
                place, value = self.value(owner), settled(value)
                if not isinstance(place.type, Object) or isinstance(value.type, Static):
                    raise Untranslatable("an attribute outside the state or a value without a C type is assigned")
                place.type.declare(name, value.type)
                self.lines.append(f"{place.code}->{name} = {value.code};")
            case _:
                raise Untranslatable("an assignment to such a target has no translation")

    def _store(self, name: str, value: Value) -> None:
        known = self.names.get(name)
        fresh = known is None or isinstance(known.type, Static)
        if self._depth and (known is None or not fresh):
            value = written(value)
        if isinstance(value.type, Static) or (known is not None and fresh):
            if self._depth:
                raise Untranslatable(f"after the `if`, `{name}` would not be known at compile time")
            self.names[name] = value
        if isinstance(value.type, Static):
            return
        if fresh:
            if self.variables.get(f"{name}_", c_name(value.type)) != c_name(value.type):
                raise Untranslatable(f"`{name}` has another type than before")
            self.names[name] = Value(value.type, f"{name}_")
            self.variables[f"{name}_"] = c_name(value.type)
            self.types.append(value.type)
        self.lines.append(f"{name}_ = {converted(value, self.names[name].type).code};")

    def _return(self, value: Value) -> None:
        value = written(value)
        self.result = common(Value(self.result), value) if self._returned else value.type
        self._returned[len(self.lines)] = value
        self.lines.append("")


def _struct(name: str, members: dict[str, Type]) -> str:
    return f"typedef struct {{ {' '.join(f'{c_name(kind)} {to};' for to, kind in members.items())} }} {name};"


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    code = function.__code__
    found = _definitions(code.co_filename).get(code.co_firstlineno)
    if found is None or found.name != function.__name__:
        raise Untranslatable(f"the source of {function.__qualname__} is not known")
    return found


@functools.cache
def _definitions(path: str) -> dict[int, ast.FunctionDef]:
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    return {node.lineno: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
