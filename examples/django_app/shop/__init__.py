"""A shop in Django that tracks its sign-ups and its orders."""
