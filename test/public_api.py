"""The public names of the package and their signatures, as text that can be compared.

`python test/public_api.py` prints them, with `--write` they become the new snapshot,
public_api.txt. They are read from the source and not from what is imported: so they are the same
on every Python and under every pydantic, and no extra has to be installed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Optional, Union

SNAPSHOT = Path(__file__).with_name("public_api.txt")
COMMAND = "python test/public_api.py --write"
HEAD = f"# What users of the package may rely on. Written by `{COMMAND}`."
MODULES = [
    "cms_python",
    "cms_python.api",
    "cms_python.events",
    "cms_python.exceptions",
    "cms_python.models",
    "cms_python.results",
    "cms_python.sandbox",
    "cms_python.testing",
]
# How the outbox works inside: changed at will, and promised to nobody.
INTERNAL = {
    "cms_python.delivery.database",
    "cms_python.delivery.logs",
    "cms_python.delivery.retries",
    "cms_python.delivery.storage",
    "cms_python.delivery.verdicts",
}

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]
Definition = Union[ast.stmt, "Import"]


class Import(NamedTuple):
    """A name that comes from another module of the package."""

    module: str
    name: str


def snapshot() -> str:
    """All public names: where each comes from, then what each is."""
    lines = [HEAD]
    wanted: dict[str, None] = {}
    for module in public_modules():
        lines += ["", module]
        for name in public_names(module):
            home = origin(module, name)
            lines.append(f"    {name}" + ("" if home.module == module else f" = {dotted(home)}"))
            wanted[dotted(home)] = None
    for name in sorted(with_bases(wanted)):
        lines += ["", *described(name)]
    return "\n".join(lines) + "\n"


def public_modules() -> list[str]:
    folder = package_folder() / "delivery"
    deliveries = {f"cms_python.delivery.{path.stem}" for path in folder.glob("[!_]*.py")}
    return sorted([*MODULES, "cms_python.delivery", *(deliveries - INTERNAL)])


@cache
def package_folder() -> Path:
    spec = find_spec("cms_python")
    if spec is None or spec.origin is None:
        raise LookupError("cms_python is not installed")
    return Path(spec.origin).parent


@cache
def definitions(module: str) -> dict[str, Definition]:
    """What the top level of a module defines or imports from the package, by name."""
    path = package_folder().joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {name: each for node in flat(body) for name, each in named(node)}


def flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, with those below `if` and `try`."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            yield from flat([*node.body, *node.orelse])
        else:
            yield node


def named(node: ast.stmt) -> Iterator[tuple[str, Definition]]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        yield from ((each.id, node) for each in node.targets if isinstance(each, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cms_python"):
        for each in node.names:
            yield each.asname or each.name, Import(node.module or "", each.name)


def public_names(module: str) -> list[str]:
    """Its `__all__`; in a module without, what it defines itself."""
    found = definitions(module)
    listed = found.get("__all__")
    if isinstance(listed, ast.Assign):
        return sorted(ast.literal_eval(listed.value))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return sorted(
        name for name, node in found.items() if is_public(name) and isinstance(node, kinds)
    )


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def origin(module: str, name: str) -> Import:
    """Where a name is defined, however often it is passed on."""
    found = definitions(module).get(name)
    if found is None:
        raise LookupError(f"{module} offers {name}, which its source does not define")
    return origin(*found) if isinstance(found, Import) else Import(module, name)


def dotted(where: Import) -> str:
    return f"{where.module}.{where.name}"


def looked_up(name: str) -> Definition:
    module, _, own = name.rpartition(".")
    return definitions(module)[own]


def with_bases(names: dict[str, None]) -> set[str]:
    """The names and, as their methods are inherited, the classes of the package below them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = looked_up(name)
        if name not in found and isinstance(node, ast.ClassDef):
            module = name.rpartition(".")[0]
            bases = [ast.unparse(base) for base in node.bases]
            waiting += [
                dotted(origin(module, base)) for base in bases if base in definitions(module)
            ]
        found.add(name)
    return found


def described(name: str) -> list[str]:
    """A definition with its signature, under its full name."""
    node = looked_up(name)
    if isinstance(node, ast.ClassDef):
        body = [f"    {line}" for line in members(node)]
        return [*decorators(node), class_line(node, name), *body]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [*decorators(node), signature(node, name)]
    # The version's value changes with each release, and is checked elsewhere.
    if isinstance(node, ast.Assign) and not name.endswith(".__version__"):
        return [f"{name} = {ast.unparse(node.value)}"]
    return [name]


def decorators(node: Union[ast.ClassDef, Function]) -> list[str]:
    return [f"@{ast.unparse(each)}" for each in node.decorator_list]


def class_line(node: ast.ClassDef, name: str) -> str:
    keywords = [f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords]
    bases = ", ".join([ast.unparse(each) for each in node.bases] + keywords)
    return f"class {name}({bases})" if bases else f"class {name}"


def signature(node: Function, name: str) -> str:
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{start} {name}({ast.unparse(node.args)}){returns}"


def members(node: ast.ClassDef) -> Iterator[str]:
    """Public methods, fields and attributes, in the order of the source: it counts for fields."""
    for each in flat(node.body):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_public(each.name):
            yield from [*decorators(each), signature(each, each.name)]
            if each.name == "__init__":
                yield from attributes(each)
        elif isinstance(each, (ast.Assign, ast.AnnAssign)) and any(
            is_public(name) for name, _ in named(each)
        ):
            yield ast.unparse(each)


def attributes(init: Function) -> Iterator[str]:
    """What `__init__` sets on `self`, with its type where that is written there."""
    for each in ast.walk(init):
        if isinstance(each, ast.AnnAssign) and (name := attribute(each.target)):
            yield f"self.{name}: {ast.unparse(each.annotation)}"
        elif isinstance(each, ast.Assign):
            yield from (f"self.{name}" for target in each.targets if (name := attribute(target)))


def attribute(target: ast.expr) -> Optional[str]:
    if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
        return None
    return target.attr if target.value.id == "self" and is_public(target.attr) else None


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        SNAPSHOT.write_bytes(snapshot().encode())
    else:
        sys.stdout.write(snapshot())
