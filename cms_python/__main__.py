"""``python -m cms_python``: the same as the command ``cms-python``."""

from cms_python.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
