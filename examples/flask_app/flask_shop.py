"""A shop in Flask that tracks its sign-ups and its orders; the README shows how to run it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Optional

from flask import Flask, abort, request

from cms_python import CMSClient, Outbox, TrackResult

HERE = Path(__file__).parent
DATABASE = os.environ.get("SHOP_DATABASE", str(HERE / "shop.db"))
OUTBOX = os.environ.get("SHOP_OUTBOX", str(HERE / "events.db"))
MOST = 1_000_000_000
LONGEST_CLICK_ID = 255
TABLES = """
    CREATE TABLE items (name TEXT PRIMARY KEY, cents INTEGER, stock INTEGER CHECK (stock >= 0));
    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, click_id TEXT);
    CREATE TABLE orders (
        number INTEGER PRIMARY KEY, user INTEGER REFERENCES users, cents INTEGER, placed_at TEXT
    );
    INSERT INTO items VALUES ('book', 1999, 100);
"""

app = Flask(__name__)

# One for the whole program. It opens nothing before its first event, so gunicorn may load this
# module before it forks. Flask has no hook for the end: the outbox sees to that by itself, and
# what it cannot send by then is sent after the next start.
client = CMSClient(delivery=Outbox(OUTBOX))


@app.post("/signup")
def sign_up() -> dict[str, int]:
    email = request.form["email"]
    click_id = click_id_of(request.cookies.get("cms_id"))
    with transaction() as database:
        row = database.execute(
            "INSERT INTO users (email, click_id) VALUES (?, ?)", [email, click_id]
        )
        user = row.lastrowid or 0
    if click_id:
        track_lead(user, email, click_id)
    return {"user": user}


@app.post("/checkout")
def checkout() -> dict[str, int]:
    number = number_of("order")
    with transaction() as database:
        place_order(
            database, number, number_of("user"), request.form["item"], number_of("quantity")
        )
    # Only now is the order there to stay.
    track_sale(number)
    return {"order": number}


@app.cli.command("init-db")
def make_tables() -> None:
    """Makes the shop's tables."""
    with transaction() as database:
        database.executescript(TABLES)


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Commits when the block ends, and rolls back when it raises."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        yield database


def number_of(field: str) -> int:
    """A whole number of the form, from 1 on."""
    number = request.form.get(field, type=int)
    if number is None or not 1 <= number <= MOST:
        abort(400, f"{field} must be a whole number, at least 1")
    return number


def click_id_of(cookie: Optional[str]) -> Optional[str]:
    """The click id in the cookie, or None. Anybody can put anything there."""
    click_id = (cookie or "").strip()
    # Too long for the API, or not storable in every database: no click, and never an error.
    if not click_id.isprintable() or len(click_id) > LONGEST_CLICK_ID:
        return None
    return click_id or None


def place_order(
    database: sqlite3.Connection, number: int, user: int, item: str, quantity: int
) -> None:
    """The same number again is the same order: a second click on the button changes nothing."""
    price = database.execute("SELECT cents FROM items WHERE name = ?", [item]).fetchone()
    if price is None:
        abort(404, "no such item")
    order = [number, user, price[0] * quantity, datetime.now(timezone.utc).isoformat()]
    try:
        new = database.execute(
            "INSERT INTO orders VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", order
        )
        if new.rowcount:
            database.execute("UPDATE items SET stock = stock - ? WHERE name = ?", [quantity, item])
    except sqlite3.IntegrityError:
        abort(409, "no such user, or not enough in stock")


def track_lead(user: int, email: str, click_id: str) -> None:
    log_failure(
        client.track_lead(
            click_id=click_id,
            event_name="signup_completed",
            customer_external_id=f"user_{user}",
            customer_email=email,
            idempotency_key=f"signup-{user}",
        )
    )


def track_sale(number: int) -> None:
    """Tracks what the database says of the order, so that a repetition is the very same event."""
    with transaction() as database:
        user, cents, placed_at, click_id = database.execute(
            "SELECT user, cents, placed_at, click_id FROM orders JOIN users ON id = user"
            " WHERE number = ?",
            [number],
        ).fetchone()
    if click_id is None:
        return  # No click brought this customer.
    log_failure(
        client.track_sale(
            click_id=click_id,
            event_name="purchase_completed",
            customer_external_id=f"user_{user}",
            invoice_id=str(number),
            amount=cents,
            currency="USD",
            timestamp=placed_at,
            idempotency_key=f"order-{number}",
        )
    )


def log_failure(result: TrackResult) -> None:
    # A call never raises, so a sign-up or an order does not fail because of it.
    if result["success"] is False:
        app.logger.warning("Not tracked: %s", result["error"])
