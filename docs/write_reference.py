"""Writes docs/reference.md from the signatures and docstrings of the public names.

    python docs/write_reference.py

The text comes from the source, not from objects, so it is the same on every Python.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from textwrap import dedent
from typing import Optional, Union

PAGE = Path(__file__).parent / "reference.md"
# What is shown, in the order of reading: a heading, and names by the module that defines them.
SECTIONS: dict[str, dict[str, list[str]]] = {
    "The client": {"cms_python.client": ["CMSClient"]},
    "Results": {"cms_python.results": ["TrackSuccess", "TrackFailure", "TrackResult", "success"]},
    "Deliveries": {
        "cms_python.delivery.outbox": ["Outbox"],
        "cms_python.delivery.storage": ["OutboxStats", "DeadEvent"],
        "cms_python.delivery.database": ["OutboxError"],
        "cms_python.delivery.celery": ["CeleryDelivery", "configure_worker", "TASK"],
        "cms_python.delivery.jobs": ["deliver", "Outcome"],
        "cms_python.delivery": ["Delivery", "OnResult"],
        "cms_python.delivery.direct": ["Direct"],
        "cms_python.events": ["Event", "EventKind", "InvalidEvent"],
    },
    "The generated layer": {
        "cms_python.configuration": ["Configuration"],
        "cms_python.api_client": ["ApiClient"],
        "cms_python.api.tracking_api": ["TrackingApi"],
        "cms_python.api_response": ["ApiResponse"],
        "cms_python.models.lead_payload": ["LeadPayload"],
        "cms_python.models.sale_payload": ["SalePayload"],
        "cms_python.models.track_response": ["TrackResponse"],
        "cms_python.models.error_response": ["ErrorResponse"],
        "cms_python._version": ["__version__"],
    },
    "Exceptions of the generated layer": {
        "cms_python.exceptions": [
            "OpenApiException",
            "ApiException",
            "BadRequestException",
            "UnauthorizedException",
            "ForbiddenException",
            "NotFoundException",
            "ConflictException",
            "UnprocessableEntityException",
            "TooManyRequestsException",
            "ServiceException",
            "InvalidResponseException",
            "TransportException",
            "ConnectionException",
            "TimeoutException",
            "TlsException",
            "exception_type",
        ],
    },
    "For development and tests": {
        "cms_python.sandbox.server": ["Sandbox"],
        "cms_python.sandbox.store": ["RecordedEvent"],
        "cms_python.testing": ["cms_sandbox", "cms_client"],
    },
}
# Names that are values, and so have no docstring.
VALUES = {
    "TrackResult": "What a call returns: a `TrackSuccess` or a `TrackFailure`.",
    "OnResult": "What `on_result` may be: a function of an `Event` and its `TrackResult`.",
    "EventKind": 'The kinds of events, for annotations: `Literal["lead", "sale"]`.',
    "TASK": "The name of the task, `cms_python.deliver`, for `task_routes` and the like.",
    "__version__": "The version of the package.",
}
# A public name is imported from the shortest of these that has it.
SHORT = ("cms_python", "cms_python.delivery.outbox", "cms_python.sandbox", "cms_python.testing")
HEAD = """<!-- Written by docs/write_reference.py. Edit the docstrings and run it again. -->

# Reference

Every public name, with its signature and its description, as they stand in the code. What is not
listed here may change without notice.
"""
LONGEST_LINE = 88
SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n", re.MULTILINE)
ITEM = re.compile(r"^ {4}(\w+): ", re.MULTILINE)

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]
Definition = Union[ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef]


class Undocumented(Exception):
    """A public name that says nothing of itself."""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, modules in SECTIONS.items():
        parts.append(f"## {heading}\n")
        for module, names in modules.items():
            parts += [_entry(module, name) for name in names]
    return "\n".join(parts)


def _entry(module: str, name: str) -> str:
    offers = (each for each in SHORT if name in importlib.import_module(each).__all__)
    home = next(offers, module)
    line = f"### {name}\n\n`from {home} import {name}`\n"
    if name in VALUES:
        return f"{line}\n{VALUES[name]}\n"
    source = inspect.getsource(importlib.import_module(module))
    nodes = ast.parse(source).body
    kinds = (ast.ClassDef, ast.FunctionDef)
    (node,) = [each for each in nodes if isinstance(each, kinds) and each.name == name]
    if isinstance(node, ast.ClassDef):
        return line + _class(source, node)
    marks = [ast.get_source_segment(source, each) or "" for each in node.decorator_list]
    if any("fixture" in mark for mark in marks):
        return f"{line}\nA fixture for pytest.\n\n{_description(node, name)}"
    return f"{line}{_signature(source, node)}\n{_description(node, name)}"


def _class(source: str, node: ast.ClassDef) -> str:
    """A class: how it is made, what it is, and its methods."""
    bases = [ast.get_source_segment(source, base) or "" for base in node.bases]
    fields = _fields(source, node) if node.decorator_list or "TypedDict" in bases else []
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    made = next((each for each in methods if each.name == "__init__"), None)
    text = ""
    if "Model" in bases:
        # Its fields stand on a page of their own, with what the contract says of each.
        summary = _marked((ast.get_docstring(node) or "").splitlines()[0])
        return f"\n{summary} [Its fields]({node.name}.md).\n"
    if "TypedDict" in bases:
        text = _block([f"class {node.name}(TypedDict)", *(f"    {each}" for each in fields)])
    elif made or fields:
        arguments = fields if made is None else _arguments(source, made)
        text = _block([_call(node.name, arguments)])
    elif bases:
        text = _block([f"class {node.name}({', '.join(bases)})"])
    text += f"\n{_description(node, node.name)}"
    for each in methods:
        if not each.name.startswith("_"):
            text += f"\n#### {node.name}.{each.name}\n" + _method(source, each, node.name)
    return text


def _method(source: str, node: ast.FunctionDef, owner: str) -> str:
    return f"{_signature(source, node)}\n{_description(node, f'{owner}.{node.name}')}"


def _signature(source: str, node: ast.FunctionDef) -> str:
    marks = {ast.get_source_segment(source, each) for each in node.decorator_list}
    returns = ast.get_source_segment(source, node.returns) if node.returns else None
    if "property" in marks:
        return _block([f"{node.name}: {returns}"])
    return _block([_call(node.name, _arguments(source, node), f" -> {returns}" if returns else "")])


def _call(name: str, arguments: list[str], arrow: str = "") -> str:
    """A call on one line where it fits, else with an argument a line."""
    line = f"{name}({', '.join(arguments)}){arrow}"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in arguments), f"){arrow}"])


def _arguments(source: str, node: Function) -> list[str]:
    """The arguments as they stand in the source, without self."""
    given = node.args.posonlyargs + node.args.args
    defaults: list[Optional[ast.expr]] = [None] * (len(given) - len(node.args.defaults))
    pairs = list(zip(given, [*defaults, *node.args.defaults]))
    if pairs and pairs[0][0].arg in {"self", "cls"}:
        pairs.pop(0)
    texts = [_argument(source, each, default) for each, default in pairs]
    if node.args.kwonlyargs:
        texts.append("*")
    texts += [
        _argument(source, each, default)
        for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults)
    ]
    return texts


def _argument(source: str, node: ast.arg, default: Optional[ast.expr]) -> str:
    kind = ast.get_source_segment(source, node.annotation) if node.annotation else None
    text = f"{node.arg}: {kind}" if kind else node.arg
    return f"{text} = {ast.get_source_segment(source, default)}" if default else text


def _fields(source: str, node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass or a TypedDict."""
    found = []
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            text = f"{each.target.id}: {ast.get_source_segment(source, each.annotation)}"
            value = ast.get_source_segment(source, each.value) if each.value else None
            if value and value.startswith("field("):
                # Of these only the default says something to a caller.
                value = "None" if "default=None" in value else None
            found.append(f"{text} = {value}" if value else text)
    return found


def _description(node: Definition, name: str) -> str:
    text = ast.get_docstring(node)
    if not text:
        raise Undocumented(f"{name} has no docstring")
    first, *rest = SECTION.split(text)
    parts = [_prose(first)]
    for title, body in zip(rest[::2], rest[1::2]):
        # What follows a section without being indented is prose again.
        inside, outside = _split(body)
        parts.append(_section(title, inside))
        if outside:
            parts.append(_prose(outside))
    return "\n".join(part for part in parts if part.strip())


def _split(body: str) -> tuple[str, str]:
    lines = body.splitlines()
    end = next((at for at, line in enumerate(lines) if line and line[0] != " "), len(lines))
    return "\n".join(lines[:end]).rstrip(), "\n".join(lines[end:])


def _section(title: str, body: str) -> str:
    if title == "Example":
        return f"Example:\n{_block([dedent(body).strip()])}"
    if title in {"Args", "Raises"}:
        items = ITEM.split(body)[1:]
        lines = [f"- `{name}`: {_flowing(text)}" for name, text in zip(items[::2], items[1::2])]
        return f"{'Arguments' if title == 'Args' else title}:\n\n" + "\n".join(lines) + "\n"
    return f"{title}: {_flowing(body)}\n"


def _flowing(text: str) -> str:
    return _marked(" ".join(text.split()))


def _prose(text: str) -> str:
    """Paragraphs, lists, and what is indented as a block of code."""
    parts = []
    for each in re.split(r"\n{2,}", text.strip("\n").rstrip()):
        if each.startswith("    "):
            parts.append(_block([dedent(each)]).strip("\n"))
        elif each.startswith("- "):
            items = re.split(r"^- ", each, flags=re.MULTILINE)[1:]
            parts.append("\n".join(f"- {_flowing(item)}" for item in items))
        else:
            parts.append(_flowing(each))
    return "\n\n".join(parts) + "\n" if any(parts) else ""


def _marked(text: str) -> str:
    return text.replace("``", "`")


def _block(lines: list[str]) -> str:
    return "\n```\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
