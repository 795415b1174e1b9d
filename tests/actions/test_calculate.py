"""Calculate: decimals, rounding, and every way to make it hang or do more."""

from __future__ import annotations

import pytest

from actions.calculate import CalculationError, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333333"),
        ("200 * 1.15", "230"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** 93", "9903520314283042199192993792"),
        ("2 ** 100", "1.26765060022823e+30"),
        ("sqrt(2) ** 2", "2"),
        ("round(2.5)", "2"),
        ("round(1234.5, -2)", "1200"),
        ("max([1, 2, 3]) - min(4, 5)", "-1"),
        ("sum(0.1, 0.2, 0.3)", "0.6"),
        ("abs(-3) + floor(1.9) + ceil(1.1)", "6"),
        ("3 × 4 − 1", "11"),
        ("1" + "+1" * 249, "250"),
        ("5 - 5", "0"),
    ],
)
def test_calculates(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "the expression is empty"),
        ("9**9**9", "the result is too large"),
        ("9**9**9**9**9**9", "the result is too large"),
        ("round(1, -10**9)", "round takes whole places from -28 to 28"),
        ("round(1, 10**9)", "round takes whole places from -28 to 28"),
        ("exp(exp(exp(9)))", "the result is too large"),
        ("1e999", "a number is too large"),
        (
            "9" * 100_000,
            "the expression has 100000 characters, at most 500 are allowed",
        ),
        ("9**9**" + "9" * 400, "the result is too large"),
        ("(" * 499, "this is not an arithmetic expression"),
        ("-" * 499 + "1", "the expression is nested deeper than 256"),
        ("1/0", "division by zero"),
        ("1//0", "division by zero"),
        ("1%0", "division by zero"),
        ("0**-1", "division by zero"),
        ("0**0", "the result is not a number that fits"),
        ("sqrt(-1)", "a negative number has no square root"),
        ("(-8)**(1/3)", "a negative number has no such power"),
        ("ln(0)", "only a number above 0 has a logarithm"),
        ("2^3", "write powers with ** instead of ^"),
        ("'a' * 3", 'the character "\'" is not allowed'),
        ("abs", 'unknown name "abs"'),
        ("1if 2 else 3", "'1i' is no number and no word"),
        ("True + 1", "only numbers can be calculated"),
        ("sqrt(1, 2)", "sqrt takes 1 number(s), 2 given"),
        ("abs([1])", "abs takes numbers, not a list"),
        ("min()", "min takes at least 1 number(s), 0 given"),
        (
            "eval(1)",
            'unknown function "eval"; known are abs, ceil, exp, floor, ln, log10, '
            "max, min, round, sqrt, sum",
        ),
        (
            "[9**9 for i in 1]",
            "only numbers, + - * / // % ** and functions can be calculated",
        ),
        ("(1)(2)", "only numbers, + - * / // % ** and functions can be calculated"),
    ],
)
def test_refuses_and_says_why(expression, reason):
    with pytest.raises(CalculationError) as caught:
        calculate(expression)
    assert str(caught.value) == reason
