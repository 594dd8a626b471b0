"""The domains that adapters are trained on: kinds of text that Python makes out of itself, unlike what the bases read.

Each maker turns modules of the library, pieces of its documentation or Unicode's tables into documents. What is held
out of the bases' text is held out here too. The text depends on the version of Python; the samples in `held_out/` do
not.
"""

from __future__ import annotations

import ast
import codecs
import dis
import json
import types
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from examples.text import corpus
from examples.text.corpus import Document, Part

HERE = Path(__file__).resolve().parent
ENOUGH = 1_500_000
"""Characters of training text after which no further document is made."""
SAMPLE = 16_384
NEUTRAL_SAMPLE = 32_768
NEUTRAL = "neutral"
"""Name of the bases' own kind of text, held out."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Maker = Callable[[Part], Iterator[Document]]


def _trees(part: Part) -> Iterator[tuple[str, str, ast.Module]]:
    """Gives name, text and syntax tree of the modules on one side of the split, those that do not parse left out."""
    for name, text in corpus.of_part(corpus.sources(), part):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules
            try:
                yield name, text, ast.parse(text)
            except (SyntaxError, ValueError):
                continue


def _definitions(tree: ast.Module) -> list[Definition]:
    return [node for node in ast.walk(tree) if isinstance(node, Definition)]


def prose(part: Part) -> Iterator[Document]:
    """Gives what is written for people: pieces of the language reference, then the docstrings of each module."""
    yield from corpus.of_part(corpus.documentation(), part)
    for name, _, tree in _trees(part):
        found = [ast.get_docstring(node) for node in (tree, *_definitions(tree))]
        text = "\n\n".join(text for text in found if text)
        if text:
            yield Document(name, text)


def shouting(part: Part) -> Iterator[Document]:
    """Gives documentation in capitals."""
    return (Document(name, text.upper()) for name, text in prose(part))


def rot13(part: Part) -> Iterator[Document]:
    """Gives documentation with each Latin letter moved on by thirteen."""
    return (Document(name, codecs.encode(text, "rot13")) for name, text in prose(part))


def _entry(module: str, node: Definition) -> str:
    """Gives one definition as a line of JSON."""
    entry: dict[str, object] = {"module": module, "kind": "class", "name": node.name, "line": node.lineno}
    if isinstance(node, ast.ClassDef):
        entry["bases"] = [ast.unparse(base) for base in node.bases]
    else:
        entry["kind"] = "coroutine" if isinstance(node, ast.AsyncFunctionDef) else "function"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        entry["arguments"] = [argument.arg for argument in arguments]
        entry["defaults"] = [ast.unparse(value) for value in node.args.defaults]
    first_lines = (ast.get_docstring(node) or "").split("\n\n")[0]
    entry["doc"] = first_lines or None
    return json.dumps(entry)


def json_lines(part: Part) -> Iterator[Document]:
    """Gives each module's definitions as JSON, one object a line."""
    for name, _, tree in _trees(part):
        module = name.removesuffix(".py").replace("/", ".")
        lines = [_entry(module, node) for node in _definitions(tree)]
        if lines:
            yield Document(name, "\n".join(lines) + "\n")


def unicode_tables(part: Part) -> Iterator[Document]:
    """Gives Unicode's characters by blocks of 128: code point, UTF-8 bytes, category, direction, name."""
    for block in range(0, 0x20000, 128):
        name = f"unicode/{block:05X}"
        lines = [_character(point) for point in range(block, block + 128)]
        text = "".join(line for line in lines if line)
        if text and corpus.part_of(name) == part:
            yield Document(name, text)


def _character(point: int) -> str:
    """Gives a character's line, nothing for the nameless and for those whose names only repeat their number."""
    name = unicodedata.name(chr(point), "")
    if not name or name.endswith(f"-{point:04X}") or name.startswith("HANGUL SYLLABLE"):
        return ""
    category, direction = unicodedata.category(chr(point)), unicodedata.bidirectional(chr(point))
    return f"U+{point:04X}  {chr(point).encode().hex(' ')}  {category}  {direction:3}  {name}\n"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _shown(instruction: dis.Instruction) -> str:
    """Gives an argument's words; sets and code objects are only named, for how they print differs from run to run."""
    if isinstance(instruction.argval, frozenset | types.CodeType):
        return type(instruction.argval).__name__
    return instruction.argrepr[:60]


def _listing(code: types.CodeType) -> str:
    lines = [f"{code.co_qualname}({', '.join(code.co_varnames[: code.co_argcount])})"]
    for item in dis.get_instructions(code):
        mark = ">>" if item.is_jump_target else "  "
        lines.append(
            f"{mark}{item.offset:6} {item.opname:24} {'' if item.arg is None else item.arg:>4} {_shown(item)}".rstrip()
        )
    return "\n".join(lines) + "\n"


def disassembly(part: Part) -> Iterator[Document]:
    """Gives the byte code of each module's functions."""
    for name, _, tree in _trees(part):
        try:
            module = compile(tree, name, "exec", dont_inherit=True, optimize=2)
        except (SyntaxError, ValueError):
            continue
        functions = [code for code in _codes(module) if not code.co_name.startswith("<")]
        if functions:
            yield Document(name, "\n".join(_listing(code) for code in functions))


def syntax_trees(part: Part) -> Iterator[Document]:
    """Gives the syntax trees of each module's functions, one a line."""
    for name, _, tree in _trees(part):
        functions = [node for node in _definitions(tree) if not isinstance(node, ast.ClassDef)]
        if functions:
            yield Document(name, "\n".join(ast.dump(node) for node in functions) + "\n")


MAKERS: dict[str, Maker] = {
    "shouting": shouting,
    "rot13": rot13,
    "json": json_lines,
    "unicode": unicode_tables,
    "disassembly": disassembly,
    "syntax-trees": syntax_trees,
}
DOMAINS = tuple(MAKERS)


@cache
def training_documents(domain: str) -> tuple[Document, ...]:
    """Gives a domain's training text, about 1.5 million characters of it, made anew from this machine's Python."""
    taken: list[Document] = []
    room = ENOUGH
    for document in MAKERS[domain]("train"):
        taken.append(document)
        room -= len(document.text)
        if room <= 0:
            break
    return tuple(taken)


def make_sample(domain: str) -> str:
    """Makes a domain's held-out sample anew, 16 KiB; neutral text, 32 KiB, is half source, half documentation."""
    if domain == NEUTRAL:
        halves = (corpus.sources(), corpus.documentation())
        return "".join(corpus.sample(corpus.of_part(half, "held-out"), NEUTRAL_SAMPLE // 2) for half in halves)
    documents = sorted(MAKERS[domain]("held-out"), key=lambda item: corpus.order(item.name))
    return corpus.sample(documents, SAMPLE)


def sample_file(domain: str, folder: Path = HERE) -> Path:
    """Gives where a domain's held-out sample lies."""
    return folder / "held_out" / f"{domain}.txt"


def held_out(domain: str, folder: Path = HERE) -> bytes:
    """Gives the held-out sample of a domain, or of "neutral", as it was stored."""
    return sample_file(domain, folder).read_bytes()
