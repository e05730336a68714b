"""Error messages for a configuration that cannot be composed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mtrl.core.errors import UserError, expected


def explained(error: BaseException, overrides: Sequence[str]) -> UserError:
    """A one-line UserError for the innermost cause of a composition error."""
    named = next((o for o in overrides if f"'{o}'" in str(error) or f"'{o.partition('=')[0]}'" in str(error)), None)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return cause
    message = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    key = getattr(cause, "full_key", None)
    name = (named or "").partition("=")[0]
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        owner: Any = getattr(cause, "object_type", None)
        return unknown_option(str(key or name), [field.name for field in fields(owner)] if is_dataclass(owner) else [])
    for pattern, kind in _KINDS.items():
        if key and (found := re.match(pattern, message)):
            typed = [override.partition("=")[2] for override in overrides if override.startswith(f"{key}=")]
            refused = (value for value in typed if _bare(value) == _bare(found[1]))  # an option may be typed twice
            return expected(f"Option `{key}`", kind, next(refused, typed[-1] if typed else found[1]))
    subject = f"Option `{key}`" if key else f"Option {named!r}" if named else "The configuration"
    return UserError(f"{subject} should be valid. Found: {message}.")


MALFORMED = (OmegaConfBaseException, LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
"""What OmegaConf and the checks of values may raise for a file that was edited by hand."""
_KINDS = {
    r"Value '(.*)' of type '.*' could not be converted to Integer": "an integer",
    r"Value '(.*)' of type '.*' could not be converted to Float": "a number",
    r"Value '(.*)' is not a valid bool": "true or false",
    r"Invalid value assigned: (.*) is not a ListConfig": "a list in brackets, such as [first,second]",
    r"field '(.*)' is not Optional": "set",
}
"""Pattern of OmegaConf's message for a value of the wrong type -> what the value should be."""


def _bare(value: str) -> str:
    """A value without blanks and quotes, which OmegaConf's message may show differently from what was typed."""
    return re.sub(r"[\s'\"]", "", value)


def unknown_option(option: str, known: Sequence[str]) -> UserError:
    """The error for an option that does not exist. It lists the `known` ones of the same part."""
    prefix, _, name = option.rpartition(".")
    known = [field for field in known if field != "kind"]
    if not known:
        return expected(f"Option `{option}`", "left out, as nothing that is chosen here has it", name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{prefix + '.' if prefix else ''}{near[0]}'?" if near else ""
    return UserError(f"Option `{option}` should be one of {', '.join(known)}. Found {name!r}.{hint}")
