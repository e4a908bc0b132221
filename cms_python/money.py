"""Amounts of money as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["display", "exponent", "minor_units"]

# ISO 4217; every other currency has two digits after the point.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW"), 0),
    **dict.fromkeys(("PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
_PLAIN = re.compile(r"(?P<whole>[0-9]{1,18})([.,](?P<decimals>[0-9]{1,8}))?")
# Groups of three digits, and another sign before the decimals.
_GROUPED = re.compile(
    r"(?P<whole>[0-9]{1,3}([.,])[0-9]{3}(\2[0-9]{3})*)((?!\2)[.,](?P<decimals>[0-9]{1,8}))?"
)
_SCIENTIFIC = re.compile(r"[0-9.,]+[eE][+-]?[0-9]+")


def exponent(currency: str) -> int:
    """How many digits a currency has after the point."""
    return _EXPONENTS.get(currency, 2)


def display(amount: int, currency: str) -> str:
    """An amount in major units, such as 49.99 for 4999 and USD, exactly.

    The contract speaks of cents, which are hundredths, and says nothing of currencies that have
    none. Here an amount counts in the currency's own smallest unit: 4999 is 49.99 USD, 4999 JPY
    and 4.999 KWD.
    """
    digits = exponent(currency)
    if digits == 0:
        return str(amount)
    whole, rest = divmod(amount, 10**digits)
    return f"{whole}.{rest:0{digits}}"


def minor_units(text: str, currency: str) -> int:
    """The amount that a text in major units stands for: 4999 for 49.99 and USD, exactly.

    A comma may stand for the point, and groups of three digits may be set apart, where there is
    only one way to read it. Raises ValueError with a sentence where there is none, or more than
    one.

    Example:
        >>> minor_units("1,234.50", "USD")
        123450
    """
    plain = text.strip()
    if _SCIENTIFIC.fullmatch(plain):
        raise ValueError("is in scientific notation, which may have been rounded: write it out")
    found = _PLAIN.fullmatch(plain) or _GROUPED.fullmatch(plain)
    if found is None:
        raise ValueError("must be an amount such as 49.99, at least 0, without a currency's sign")
    digits, decimals = exponent(currency), found["decimals"] or ""
    if _PLAIN.fullmatch(plain) and len(decimals) == 3 and (digits != 3 or "," in plain):
        raise ValueError("can be read in two ways: write 1234.00 or 1.23, without groups of digits")
    amount = Decimal(f"{re.sub('[^0-9]', '', found['whole'])}.{decimals or 0}").scaleb(digits)
    if amount != amount.to_integral_value():
        raise ValueError(f"has more digits after the point than {currency} has ({digits})")
    return int(amount)
