"""Translates the tasks' Python to C with the same operations in the same order, so that results have the same bits.

A task's observation and reward are plain Python functions of one copy (`mtrl.envs.metaworld.tasks`). Without a C
compiler, Python runs them. With one, a `Program` translates the same functions, and everything that they call, from
their syntax trees to C. Python's floats are C's doubles, both call the same mathematical library, and the C is compiled
without fused multiply-adds.

What the functions may use:

- Statements: assignments to names, to ``a, b`` and to attributes of the state; ``if``; ``return``; ``pass``.
- Expressions: constants, names, attributes, ``+ - * /``, comparisons, ``and``, ``or``, ``not``, ``a if test else b``.
- Tuples of a fixed length: literals, also with ``*t`` and ``*(f(x) for x in t)``, and indices and slices that are known
  at compile time.
- Calls of ``abs min max len float bool``, ``math.sqrt exp log sin cos isnan``, ``numpy.float32``, named tuples,
  ``functools.partial`` objects, and other functions of this kind, with keywords and defaults.

Anything else raises `Untranslatable`, whose message quotes the statement.

How it works:

- ``values``: a value is a C expression with its type. Types are ``double``, ``float``, ``int`` (for bool), `Tuple`
  (a struct), `Object` (a pointer to the state), and `Static`, for what is known at compile time and has no C code of
  its own: functions, strings, None, integers and the constants of a module.
- ``translation``: a function is translated once for each combination of argument types. Static arguments belong to the
  combination and do not become parameters: a function that gets another function calls it directly, and an ``if`` on a
  static value keeps one branch. The first value of a variable decides the variable's type. The type of the result is
  the common type of all returned values.
- ``expressions``: translates each kind of expression.

Single precision follows numpy's rules, on which Meta-World's rewards depend: an operation on a float32 and a number
written in the source is done in float32. On a float32 and a double, numpy and C would differ, so the translation
refuses such operations. `tasks.kernels.mixed` shows how to run a function in either precision.
"""

from mtrl.envs.metaworld.compiler.translation import Program
from mtrl.envs.metaworld.compiler.values import DOUBLE, SINGLE, Object, Tuple, Untranslatable, Value, c_name, static

__all__ = ["DOUBLE", "SINGLE", "Object", "Program", "Tuple", "Untranslatable", "Value", "c_name", "static"]
