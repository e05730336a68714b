"""Values in the translated code: C expressions with their types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias


class Untranslatable(TypeError):
    """The source uses something that has no translation."""

    placed = False
    """Whether the message already names the place in the source."""


@dataclass(frozen=True)
class Number:
    """A type of number in C."""

    name: str


DOUBLE, SINGLE, BOOL = Number("double"), Number("float"), Number("int")


@dataclass(frozen=True)
class Tuple:
    """A struct with one member for each part. A named tuple also has the parts' names."""

    parts: tuple[Type, ...]
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        if len(set(self.parts)) == 1:
            return f"{_letter(self.parts[0])}{len(self.parts)}"
        return "t" + "".join(_letter(part) for part in self.parts)


@dataclass(eq=False)
class Object:
    """A pointer to a struct whose fields are given, or are declared when they are first assigned."""

    name: str
    fields: dict[str, Type] = field(default_factory=dict)

    def declare(self, name: str, kind: Type) -> None:
        """Add a field. Raises `Untranslatable` if it already has another type."""
        if self.fields.setdefault(name, kind) != kind:
            raise Untranslatable(f"`{name}` of {self.name} is {kind} here and {self.fields[name]} elsewhere")


@dataclass(frozen=True)
class Static:
    """A value known at compile time."""

    value: Any

    @property
    def key(self) -> Any:
        """Identifies the value. Unlike `==`, it tells equal numbers of different types apart."""
        plain = isinstance(self.value, bool | int | float | str | None)
        return (type(self.value), self.value) if plain else id(self.value)


Type: TypeAlias = Number | Tuple | Object | Static


@dataclass(frozen=True)
class Value:
    """A C expression with its type. ``code`` has no side effects, and may be repeated at no cost if it is `simple`.

    A tuple that has just been built also has its ``parts``, so that taking one of them needs no struct.
    """

    type: Type
    code: str = ""
    parts: tuple[Value, ...] = ()

    @property
    def simple(self) -> bool:
        return self.code.replace(".", "").replace("->", "").isidentifier()


def static(value: Any) -> Value:
    return Value(Static(value))


def is_number(value: Value) -> bool:
    return isinstance(value.type, Number) or (
        isinstance(value.type, Static) and isinstance(value.type.value, int | float)
    )


def converted(value: Value, kind: Type) -> Value:
    """Convert a value to a type: static numbers to any number, bool to double, tuples to structs of the same parts.

    Raises:
        Untranslatable: any other conversion. A change of precision has to be written in the source.
    """
    if value.type == kind:
        return value
    if isinstance(value.type, Static):
        known = value.type.value
        if isinstance(kind, Number) and isinstance(known, bool | int | float):
            literal = str(int(known)) if kind == BOOL else _literal(float(known))
            return Value(kind, f"(float){literal}" if kind == SINGLE else literal)
        if isinstance(kind, Tuple) and isinstance(known, tuple) and len(known) == len(kind.parts):
            return pack([converted(static(part), to) for part, to in zip(known, kind.parts, strict=True)], kind.names)
    if kind == DOUBLE and value.type == BOOL:
        return Value(DOUBLE, f"(double){value.code}")
    if isinstance(kind, Tuple) and isinstance(value.type, Tuple) and kind.parts == value.type.parts:
        return Value(kind, value.code, value.parts)
    raise Untranslatable(f"a value of type {value.type} where {kind} is needed")


def settled(value: Value) -> Value:
    """Convert to the form of variables and arguments: static floats become doubles, tuples of numbers structs."""
    if isinstance(value.type, Static):
        known = value.type.value
        if isinstance(known, float):
            return converted(value, DOUBLE)
        if isinstance(known, tuple) and known and all(isinstance(number, int | float) for number in known):
            return pack([written(static(number)) for number in known])
    return value


def written(value: Value) -> Value:
    """Convert to the form of struct members: as `settled`, and static integers become doubles, static bools ints."""
    if isinstance(value.type, Static) and isinstance(value.type.value, bool | int):
        return converted(value, BOOL if isinstance(value.type.value, bool) else DOUBLE)
    return settled(value)


def common(one: Value, other: Value) -> Type:
    """The type of the result where the source combines two values, or chooses between them.

    Raises:
        Untranslatable: the values have no common type.
    """
    kinds = {value.type for value in (one, other) if not isinstance(value.type, Static)}
    known = [value.type.value for value in (one, other) if isinstance(value.type, Static)]
    if not kinds:
        return BOOL if all(isinstance(value, bool) for value in known) else settled(one).type
    if kinds == {BOOL}:
        return BOOL if all(isinstance(value, bool) for value in known) else DOUBLE
    if kinds == {BOOL, DOUBLE}:
        return DOUBLE
    if len({kind.parts if isinstance(kind, Tuple) else kind for kind in kinds}) == 1:
        return next(iter(kinds))
    raise Untranslatable(f"{one.type} and {other.type} have no common type")


def pack(parts: list[Value], names: tuple[str, ...] = ()) -> Value:
    kind = Tuple(tuple(part.type for part in parts), names)
    # A tuple with a static part has no code, and can only be taken apart again.
    whole = all(part.code for part in parts)
    return Value(kind, f"({kind.name}){{{', '.join(part.code for part in parts)}}}" if whole else "", tuple(parts))


def part(value: Value, index: int) -> Value:
    """A part of a tuple, which must be `simple`, static, or just built."""
    if value.parts:
        return value.parts[index]
    if isinstance(value.type, Static):
        return static(value.type.value[index])
    assert isinstance(value.type, Tuple)
    return Value(value.type.parts[index], f"{value.code}.a{index % len(value.type.parts)}")


def size(value: Value) -> int:
    """The number of parts. Raises `Untranslatable` if the value is not a tuple."""
    if isinstance(value.type, Tuple):
        return len(value.type.parts)
    if isinstance(value.type, Static) and isinstance(value.type.value, tuple):
        return len(value.type.value)
    raise Untranslatable(f"{value.type} is not a tuple")


def c_name(kind: Type) -> str:
    """A type's name in C. Raises `Untranslatable` for a static one."""
    if isinstance(kind, Static):
        raise Untranslatable(f"{kind.value!r} has no type in C")
    return f"{kind.name} *" if isinstance(kind, Object) else kind.name


def _letter(kind: Type) -> str:
    if isinstance(kind, Tuple):
        return f"{kind.name}_"
    if not isinstance(kind, Number):
        raise Untranslatable(f"a tuple cannot hold {kind}")
    return kind.name[0]


def _literal(number: float) -> str:
    if number != number:
        return "NAN"
    text = "INFINITY" if number in (float("inf"), float("-inf")) else repr(abs(number))
    return f"(-{text})" if str(number).startswith("-") else text
