"""What Hydra, OmegaConf and PyYAML raise, in one sentence that names the word, the key or the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mft_cli.config.typed_words import failing_word, unpaired_mark
from mft_cli.config.validate import did_you_mean


def hydra_sentence(error: Exception, known: Mapping[str, Sequence[str]], words: Sequence[str] = ()) -> str:
    """Hydra's message in one sentence; for an unknown option the options and the nearest of them."""
    text = str(error) if str(error).strip() else str(error.__cause__ or type(error).__name__)
    match = re.search(r"Could not (?:find|load) '([\w-]+)/([^']+)'", text)
    if match and match[1] == "eval":
        near = difflib.get_close_matches(match[2], known["eval"], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return f"eval={match[2]}: no such benchmark or suite; {hint}mft eval list shows all"
    if match and f"paper_{match[2]}" in known["experiment"]:
        return f"{match[1]}={match[2]} is experiment=paper_{match[2]} now: settings of a paper's run are presets of experiment="
    if match and match[1] in known:
        options = known[match[1]]
        return f"{match[1]}={match[2]}: no such option; valid: {', '.join(options)}{did_you_mean(match[2], options)}"
    if other := re.match(r"Could not override '(\w+)'\. No match in the defaults list", text):
        if other[1] in known:
            return f"{other[1]}: this command has no such setting; mft train and mft critique choose {other[1]}=<name>"
        return f"{other[1]}: no such group; groups: {', '.join(known)}"
    if several := re.search(r"Ambiguous value for argument '(?:\+\+)?([^=]+)=(.*?)'\s", text):
        key, value = several.groups()
        return (
            f"{key}={value}: several values are a sweep: add -m to run each; a list is written {key}=[{value}], a text "
            f"with a comma in quotes"
        )
    if "override_grammar" in text or "expecting" in text or "no viable alternative" in text:
        said = failing_word(words) or "a word"
        if unpaired := unpaired_mark(said.partition("=")[2]):
            return f"{said}: {unpaired} has no partner; write both, or give such a text in quotes"
        quoted = said.replace("=", '="', 1) + '"' if re.match(r"[\w.@/-]+=", said) else 'key="value"'
        reads = (
            "reads < > | { [ ( = : , and ' as grammar"
            if said.isascii()
            else "takes letters beyond a to z in quotes alone"
        )
        return f"{said}: Hydra {reads}; give such a text in quotes: '{quoted}'"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line]
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    said = " ".join(line for line in lines if not line.startswith("full_key"))
    return f"{keys[0]}: {said}" if keys and keys[0] and keys[0] not in said else said


def yaml_sentence(error: Exception, folders: Iterable[Path]) -> str:
    """A YAML file of the user's own that cannot be read."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        problem = str(getattr(error, "problem", None) or "damaged")
        hint = "; indent with blanks" if "\\t" in problem else ""
        return f"{mark.name}, line {mark.line + 1}: not YAML that can be read: {problem}{hint}"
    file = next((path for folder in folders for path in sorted(folder.rglob("*.yaml")) if not is_text(path)), None)
    return f"{file or 'a YAML file'}: not YAML that can be read: {str(error).splitlines()[0]}; save it as UTF-8 text"


def is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return False
    return True
