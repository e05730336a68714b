"""From the tasks' Python to C: the same operations on the same numbers in the same order, and so the same bits.

A task's observation and reward are plain Python functions of one copy (`mtrl.envs.metaworld.tasks`). Where no C
compiler is found, Python runs them. Where one is, a `Program` translates the same functions, and everything that they
call, from their syntax trees to C. Python's floats are C's doubles, both call the same mathematical library, and the C
is compiled without contraction of products and sums.

What the functions may use:

- Statements: assignments to names, to ``a, b`` and to attributes of the state; ``if``; ``return``.
- Expressions: numbers, arithmetic, comparisons, ``and``, ``or``, ``not``, ``a if test else b``.
- Tuples of a fixed length: displays (also with ``*``), indices and slices that are known at compile time.
- Calls of ``abs min max len float bool``, of ``math.sqrt exp log sin cos isnan``, of ``numpy.float32``, of named
  tuples, of ``functools.partial`` objects, and of other functions like these, with keywords and defaults.

Anything else raises `Untranslatable` with the place in the source.

How it works:

- ``values``: a value is an expression in C and its type. Types are ``double``, ``float``, ``int`` (for bool), `Tuple`
  (a struct), `Object` (a pointer to the state), and `Static`: what is known at compile time and has no C of its own,
  such as functions, strings, None, integers and the constants of a module.
- ``translation``: a function is translated once for each combination of argument types. Static arguments are part of
  that combination and leave no parameter: a function that is given another function calls it directly, and an ``if`` on
  a static value keeps one branch. Types of variables and results follow from the first value.
- ``expressions``: what each kind of expression becomes.

Single precision follows numpy's rules, which the package's rewards depend on: an operation on a float32 and a number
written in the source is done in float32. Between a float32 and a double the two languages would differ, and the
translation refuses it; `kernels.mixed` shows how a function is run in either precision.
"""

from mtrl.envs.metaworld.compiler.translation import Program
from mtrl.envs.metaworld.compiler.values import DOUBLE, SINGLE, Object, Tuple, Untranslatable, Value, c_name, static

__all__ = ["DOUBLE", "SINGLE", "Object", "Program", "Tuple", "Untranslatable", "Value", "c_name", "static"]
