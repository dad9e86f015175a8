"""Text from files and users in what people open: one function for each form, and none of them gives a line end.

Names, sentences and notes are data. What they contain is shown, and never acts: no markup, formula, command or control
sequence.
"""

import re

from markupsafe import Markup, escape

_CSV_FORMULA = tuple("=+-@＝＋－＠")
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a line, a bare one opens an argument
    "]": "{]}",
    "*": "{*}",  # there, a bare one is a part of the command
}
_MARKDOWN = re.compile(
    r"""[\\`*<|~$]                      # anywhere
      | (?<![^\W_])_ | _(?![^\W_])      # emphasis, but not inside of a word
      | &(?=[#\w]) | @(?=\w)            # the name of a character, and an address
      | (?<=\])[(\[]                    # the target of a link or image
      | (?<=http):(?=//) | (?<=https):(?=//) | (?<=ftp):(?=//) | (?<=www)\.  # what readers make a link by themselves
      | ^[#>=\[] | ^[-+](?=[\s+-]) | ^\+$  # what begins a heading, list, quote or definition
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(\d{1,9})(?=[.)](?:\s|$))")
_PLAIN = ("autolink", "entity", "html_block", "html_inline", "image", "link", "reference")  # rules of Markdown left out
_GITHUB = re.compile(r"^ *:(?=:)|(?<=##)\[")


def one_line(text: str) -> str:
    """The text as it is, but for white space, which becomes a space, and what is not printable, as `\\x1b`."""
    if text.isprintable() and text.isascii():  # its only white space is " "
        return text
    return "".join(" " if one.isspace() else one if one.isprintable() else _code(one) for one in text)


def terminal(text: str) -> str:
    """`one_line` of every line: for standard output, where line feeds are our own.

    What GitHub Actions takes for a command, `::` at the beginning of a line and `##[`, is shown as a code,
    which in JSON is the same text.
    """
    return "\n".join(_GITHUB.sub(_as_code, one_line(line)) for line in text.split("\n"))


def html(text: str) -> Markup:
    """For HTML, also inside of quoted attributes; text that is HTML already stays."""
    return text if isinstance(text, Markup) else escape(one_line(text))


def markdown_html(text: str, deeper: int) -> Markup:
    """Markdown as HTML, its headings `deeper` levels down; links, images, HTML and names of characters stay text."""
    from markdown_it import MarkdownIt  # takes as long to import as the rest of this package's core

    reader = MarkdownIt("commonmark").enable("table").disable(_PLAIN)
    tokens = reader.parse("\n".join(map(one_line, text.splitlines())))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + deeper)}"
    return Markup(reader.renderer.render(tokens, reader.options, {}))


def markdown(text: str) -> str:
    """For a paragraph, list item or table cell of Markdown, which shows the text; a lone "-" stays as it is."""
    return _NUMBERED.sub(r"\1\\", _MARKDOWN.sub(r"\\\g<0>", one_line(text).strip()))


def markdown_code(text: str) -> str:
    """A code span of Markdown, between more backticks than stand side by side in the text."""
    shown = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}"


def github_message(text: str) -> str:
    """For the message of a workflow command of GitHub Actions; no line end is left to escape."""
    return one_line(text).replace("%", "%25")


def github_property(text: str) -> str:
    """For a property of such a command, as its title."""
    return github_message(text).replace(":", "%3A").replace(",", "%2C")


def csv_cell(text: str) -> str:
    """For a cell of CSV, before quoting: spreadsheets take none for a formula, at the price of an apostrophe."""
    shown = one_line(text).strip()
    return f"'{shown}" if shown.startswith(_CSV_FORMULA) else shown


def latex(text: str) -> str:
    """For text and tables of LaTeX."""
    return "".join(_LATEX.get(one, one) for one in one_line(text))


def figure_text(text: str) -> str:
    """For texts and legends of matplotlib, which else reads `$` as mathematics and leaves out a label with `_`."""
    shown = one_line(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _as_code(found: re.Match[str]) -> str:
    return f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}"


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
