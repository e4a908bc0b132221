"""A shop in FastAPI that tracks its sign-ups and its orders; the README shows how to run it."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Optional

from fastapi import Cookie, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from cms_python import CMSClient, Outbox, TrackResult

HERE = Path(__file__).parent
DATABASE = os.environ.get("SHOP_DATABASE", str(HERE / "shop.db"))
OUTBOX = os.environ.get("SHOP_OUTBOX", str(HERE / "events.db"))
LONGEST_CLICK_ID = 255
TABLES = """
    CREATE TABLE IF NOT EXISTS items (
        name TEXT PRIMARY KEY, cents INTEGER, stock INTEGER CHECK (stock >= 0)
    );
    CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, email TEXT, click_id TEXT);
    CREATE TABLE IF NOT EXISTS orders (
        number INTEGER PRIMARY KEY, user INTEGER REFERENCES users, cents INTEGER, placed_at TEXT
    );
    INSERT OR IGNORE INTO items VALUES ('book', 1999, 100);
"""

Number = Annotated[int, Field(ge=1, le=1_000_000_000)]


class SignUp(BaseModel):
    email: Annotated[str, Field(max_length=255)]


class Checkout(BaseModel):
    order: Number
    user: Number
    item: str
    quantity: Number


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client from the start of the program to its end, where it is closed."""
    with transaction() as database:
        database.executescript(TABLES)
    with CMSClient(delivery=Outbox(OUTBOX)) as client:
        app.state.client = client
        yield


def client_of(request: Request) -> CMSClient:
    client: CMSClient = request.app.state.client
    return client


app = FastAPI(lifespan=lifespan)
Client = Annotated[CMSClient, Depends(client_of)]

# A queued call waits some milliseconds for the disk, and in them an event loop would serve nobody.
# So the handlers below track in a thread, as they do with the database.


@app.post("/signup")
async def sign_up(
    body: SignUp,
    client: Client,
    # Not Cookie(max_length=255): a cookie that breaks the rule would break the sign-up.
    cms_id: Annotated[Optional[str], Cookie()] = None,
) -> dict[str, int]:
    click_id = click_id_of(cms_id)
    user = await run_in_threadpool(add_user, body.email, click_id)
    if click_id:
        await run_in_threadpool(track_lead, client, user, body.email, click_id)
    return {"user": user}


@app.post("/checkout")
async def checkout(body: Checkout, client: Client) -> dict[str, int]:
    await run_in_threadpool(place_order, body)
    # Only now is the order there to stay.
    await run_in_threadpool(track_sale, client, body.order)
    return {"order": body.order}


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Commits when the block ends, and rolls back when it raises."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        yield database


def click_id_of(cookie: Optional[str]) -> Optional[str]:
    """The click id in the cookie, or None. Anybody can put anything there."""
    click_id = (cookie or "").strip()
    # Too long for the API, or not storable in every database: no click, and never an error.
    if not click_id.isprintable() or len(click_id) > LONGEST_CLICK_ID:
        return None
    return click_id or None


def add_user(email: str, click_id: Optional[str]) -> int:
    with transaction() as database:
        row = database.execute(
            "INSERT INTO users (email, click_id) VALUES (?, ?)", [email, click_id]
        )
        return row.lastrowid or 0


def place_order(body: Checkout) -> None:
    """The same number again is the same order: a second click on the button changes nothing."""
    now = datetime.now(timezone.utc).isoformat()
    with transaction() as database:
        price = database.execute("SELECT cents FROM items WHERE name = ?", [body.item]).fetchone()
        if price is None:
            raise HTTPException(404, "no such item")
        order = [body.order, body.user, price[0] * body.quantity, now]
        try:
            new = database.execute(
                "INSERT INTO orders VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", order
            )
            if new.rowcount:
                taken = [body.quantity, body.item]
                database.execute("UPDATE items SET stock = stock - ? WHERE name = ?", taken)
        except sqlite3.IntegrityError:
            raise HTTPException(409, "no such user, or not enough in stock") from None


def track_lead(client: CMSClient, user: int, email: str, click_id: str) -> None:
    log_failure(
        client.track_lead(
            click_id=click_id,
            event_name="signup_completed",
            customer_external_id=f"user_{user}",
            customer_email=email,
            idempotency_key=f"signup-{user}",
        )
    )


def track_sale(client: CMSClient, number: int) -> None:
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
        logging.getLogger("uvicorn.error").warning("Not tracked: %s", result["error"])
