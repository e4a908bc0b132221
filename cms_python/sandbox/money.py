"""Amounts of money as people write them."""

from __future__ import annotations

# ISO 4217; every other currency has two digits after the point.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW"), 0),
    **dict.fromkeys(("PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


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
