"""The least that Django needs, and where the two files are."""

import os
from pathlib import Path

HERE = Path(__file__).parent.parent

OUTBOX = os.environ.get("SHOP_OUTBOX", str(HERE / "events.db"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", str(HERE / "shop.db")),
    }
}
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "not a secret: this shop signs nothing")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["shop"]
# A shop with pages has CsrfViewMiddleware and others here. This one answers programs only.
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
