"""The built-in action Calculate: evaluate arithmetic in bounded time.

Python's own parser parses the expression; this module walks the tree over a whitelist
of nodes and compiles and runs nothing. Numbers are decimals of 28 significant digits
with exponents up to 999: ``0.1 + 0.2`` is ``0.3``, every operation costs the same small
time, and a number that does not fit is an error. An inexact result is shown with 15
significant digits. ``//`` and ``%`` round towards minus infinity, as in Python;
``round`` rounds halves to even.
"""

from __future__ import annotations

import ast
import decimal
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final

MAX_CHARACTERS: Final = 500
MAX_DEPTH: Final = 256
MAX_PLACES: Final = 28

_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_ALLOWED: Final = re.compile(r"[0-9A-Za-z.,+\-*/%()\[\]\s]*")
# Refuse a number that runs into a word ("1if") before Python's parser warns about it.
_RUN_TOGETHER: Final = re.compile(r"[0-9.](?![eE][+-]?[0-9])[A-Za-z]")


class CalculationError(ValueError):
    """An expression cannot be calculated; the message says why."""


def _context() -> decimal.Context:
    return decimal.Context(
        prec=28,
        rounding=decimal.ROUND_HALF_EVEN,
        Emin=-999,
        Emax=999,
        capitals=0,
        clamp=0,
        flags=[],
        traps=[
            decimal.InvalidOperation,
            decimal.DivisionByZero,
            decimal.Overflow,
            decimal.FloatOperation,
        ],
    )


def calculate(expression: str) -> str:
    """Return the value of ``expression`` as text; raise :class:`CalculationError`."""
    if len(expression) > MAX_CHARACTERS:
        raise CalculationError(
            f"the expression has {len(expression)} characters, at most "
            f"{MAX_CHARACTERS} are allowed"
        )
    source = expression.translate(_SIGNS).strip()
    if "^" in source:
        raise CalculationError("write powers with ** instead of ^")
    if not source:
        raise CalculationError("the expression is empty")
    allowed = _ALLOWED.match(source)
    end = allowed.end() if allowed else 0
    if end < len(source):
        raise CalculationError(f"the character {source[end]!r} is not allowed")
    together = _RUN_TOGETHER.search(source)
    if together:
        raise CalculationError(f"{together.group()!r} is no number and no word")
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise CalculationError("this is not an arithmetic expression") from None
    context = _context()
    try:
        with decimal.localcontext(context) as local:
            value = _evaluate(tree.body, 0)
            return _show(value, inexact=bool(local.flags[decimal.Inexact]))
    except RecursionError:  # called from deep inside something else
        raise CalculationError("the expression is nested too deep") from None
    except decimal.DivisionByZero:
        raise CalculationError("division by zero") from None
    except decimal.Overflow:
        raise CalculationError("the result is too large") from None
    except decimal.DecimalException:
        raise CalculationError("the result is not a number that fits") from None


def _show(value: Decimal, *, inexact: bool) -> str:
    if inexact:
        value = value.normalize(decimal.Context(prec=15, Emin=-999, Emax=999))
    if not value:
        return "0"
    if -20 <= value.adjusted() <= 28:
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value.normalize():e}"


def _evaluate(node: ast.expr, depth: int) -> Decimal:
    if depth > MAX_DEPTH:
        raise CalculationError(f"the expression is nested deeper than {MAX_DEPTH}")
    match node:
        case ast.Constant(value=value):
            return _constant(value)
        case ast.Name(id=name):
            if name not in _CONSTANTS:
                raise CalculationError(f'unknown name "{name}"')
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_evaluate(operand, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](
                _evaluate(left, depth + 1), _evaluate(right, depth + 1)
            )
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in _FUNCTIONS:
                raise CalculationError(
                    f'unknown function "{name}"; known are '
                    + ", ".join(sorted(_FUNCTIONS))
                )
            return _call(name, arguments, depth)
    raise CalculationError(
        "only numbers, + - * / // % ** and functions can be calculated"
    )


def _constant(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CalculationError("only numbers can be calculated")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CalculationError("a number is too large")
        return +Decimal(repr(value))
    return +Decimal(value)


def _call(name: str, arguments: list[ast.expr], depth: int) -> Decimal:
    if len(arguments) == 1 and isinstance(arguments[0], (ast.List, ast.Tuple)):
        if name not in ("min", "max", "sum"):
            raise CalculationError(f"{name} takes numbers, not a list")
        arguments = arguments[0].elts
    values = [_evaluate(argument, depth + 1) for argument in arguments]
    fewest, most = _FUNCTION_COUNTS.get(name, (1, MAX_CHARACTERS))
    if not fewest <= len(values) <= most:
        counted = str(fewest) if fewest == most else f"{fewest} or {most}"
        if name not in _FUNCTION_COUNTS:
            counted = "at least 1"
        raise CalculationError(f"{name} takes {counted} number(s), {len(values)} given")
    return _FUNCTIONS[name](values)


def _floor_divide(one: Decimal, other: Decimal) -> Decimal:
    if not other:
        raise CalculationError("division by zero")
    quotient, rest = divmod(one, other)
    return quotient - 1 if rest and (rest < 0) != (other < 0) else quotient


def _modulo(one: Decimal, other: Decimal) -> Decimal:
    if not other:
        raise CalculationError("division by zero")
    rest = one % other
    return rest + other if rest and (rest < 0) != (other < 0) else rest


def _power(one: Decimal, other: Decimal) -> Decimal:
    if one < 0 and other != other.to_integral_value():
        raise CalculationError("a negative number has no such power")
    if not one and other < 0:
        raise CalculationError("division by zero")
    result: Decimal = one**other
    return result


def _round(values: list[Decimal]) -> Decimal:
    places = values[1] if len(values) == 2 else Decimal(0)
    if places != places.to_integral_value() or abs(places) > MAX_PLACES:
        raise CalculationError(
            f"round takes whole places from -{MAX_PLACES} to {MAX_PLACES}"
        )
    return values[0].quantize(Decimal((0, (1,), -int(places))))


def _square_root(values: list[Decimal]) -> Decimal:
    if values[0] < 0:
        raise CalculationError("a negative number has no square root")
    return values[0].sqrt()


def _logarithm(values: list[Decimal], take: Callable[[Decimal], Decimal]) -> Decimal:
    if values[0] <= 0:
        raise CalculationError("only a number above 0 has a logarithm")
    return take(values[0])


_CONSTANTS: Final = {
    "pi": Decimal("3.141592653589793238462643383"),
    "e": Decimal("2.718281828459045235360287471"),
}

_OPERATORS: Final[dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: one / other,
    ast.FloorDiv: _floor_divide,
    ast.Mod: _modulo,
    ast.Pow: _power,
}

_FUNCTIONS: Final[dict[str, Callable[[list[Decimal]], Decimal]]] = {
    "abs": lambda values: abs(values[0]),
    "ceil": lambda values: values[0].to_integral_value(decimal.ROUND_CEILING),
    "exp": lambda values: values[0].exp(),
    "floor": lambda values: values[0].to_integral_value(decimal.ROUND_FLOOR),
    "ln": lambda values: _logarithm(values, Decimal.ln),
    "log10": lambda values: _logarithm(values, Decimal.log10),
    "max": max,
    "min": min,
    "round": _round,
    "sqrt": _square_root,
    "sum": lambda values: sum(values, Decimal(0)),
}

_FUNCTION_COUNTS: Final = {
    **dict.fromkeys(("abs", "ceil", "exp", "floor", "ln", "log10", "sqrt"), (1, 1)),
    "round": (1, 2),
}
