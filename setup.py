"""What pyproject.toml cannot say: a README whose links also lead somewhere on the package index."""

import re
import runpy
from pathlib import Path

from setuptools import setup

REPOSITORY = "CutMeShort/cms-python-client"
ROOT = Path(__file__).parent
# ](target) of a link or an image, where the target is a path of this repository.
RELATIVE = re.compile(r"(!?)(\[[^][]*\])\((?!https?:|mailto:|#)([^()]+)\)")


def absolute(readme: str, version: str) -> str:
    pages = f"https://github.com/{REPOSITORY}/blob/v{version}/"
    files = f"https://raw.githubusercontent.com/{REPOSITORY}/v{version}/"
    return RELATIVE.sub(lambda m: f"{m[1]}{m[2]}({files if m[1] else pages}{m[3]})", readme)


readme = (ROOT / "README.md").read_text(encoding="utf-8")
version = runpy.run_path(str(ROOT / "cms_python" / "_version.py"))["__version__"]
setup(long_description=absolute(readme, version), long_description_content_type="text/markdown")
