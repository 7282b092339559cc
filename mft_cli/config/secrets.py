"""Secrets are kept out of configurations: whatever a configuration holds is written to run folders and ledgers.

Nothing in mft takes a secret as a value. Libraries read theirs from the environment (WANDB_API_KEY, HF_TOKEN,
COMET_API_KEY), and eval.api.key_env names the variable that holds an endpoint's key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mft_cli.errors import UserError

ENDS = {"key", "token"}  # as a name's last word: api_key, but not token_logprobs
WORDS = {"apikey", "secret", "password", "passwd", "passphrase", "credential", "credentials"}
KNOWN = ("mask_token", "_env")  # ends of keys that have such a word and no secret
FREE_NAMES = ("keep_if", "spans", "gold_fields")  # below these stand names of the user's data fields
HARMLESS = ("", "null", "none", "true", "false", "???")
IN_ADDRESS = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
# a shell line's assignment of a text; $VARIABLE and $(command) are no secret
IN_SHELL = re.compile(r"\b\w*(?:KEY|TOKEN|SECRET|PASSWORD)\w*=(?:[\"'][^$`\"']|[^\s$`\"'])")
IN_BRACES = re.compile(r"[{,]\s*['\"]?([\w.-]+)['\"]?\s*:\s*([^,{}\[\]]+)")
OVERRIDE = re.compile(r"^[+~]*([\w.@/\[\]-]+)=(.*)$", re.DOTALL)


def names_a_secret(key: str) -> bool:
    """Whether a key's last part says key, token, secret or password: eval.api.key, WANDB_API_KEY."""
    parts = re.split(r"[./]", key)
    if parts[-1].lower().endswith(KNOWN) or any(part in FREE_NAMES for part in parts[:-1]):
        return False
    words = re.split(r"[_-]", parts[-1].lower())
    return words[-1] in ENDS or not WORDS.isdisjoint(words)


def holds_a_secret(key: str, value: Any) -> bool:
    """Whether this setting would put a secret on the disk: by its key, or by an address or a shell line in its value."""
    if isinstance(value, (dict, list, bool)) or value is None:
        return False
    text = str(value).strip("'\" ")
    if IN_ADDRESS.search(text) or ("setup" in key.split(".") and IN_SHELL.search(text)):
        return True
    if key.endswith("key_env"):
        return text.lower() not in HARMLESS and not re.fullmatch(r"[A-Za-z_]\w*", text)
    return names_a_secret(key) and text.lower() not in HARMLESS


def hide_secret(argument: str) -> str:
    """A command line's word; an override such as eval.api_key=... keeps its key and loses its value."""
    found = OVERRIDE.match(argument)
    return f"{argument.partition('=')[0]}=<hidden>" if found and list(secrets_in(argument)) else argument


def secrets_in(argument: str) -> Iterator[str]:
    """Keys of an override that hold a secret: its own, or one inside of {...}."""
    found = OVERRIDE.match(argument)
    if found is None:
        return
    key, value = found[1].split("@")[0], found[2]
    inner = [(f"{key}.{name}", text.strip()) for name, text in IN_BRACES.findall(value)]
    for name, text in inner or [(key, value)]:
        if holds_a_secret(name, text):
            yield name


def refuse_arguments(arguments: list[str]) -> None:
    """Before anything is written. Raises UserError that names the key and hides the value."""
    for argument in arguments:
        for key in secrets_in(argument):
            raise UserError(refusal(key))


def refuse_values(values: Any, prefix: str = "") -> None:
    """The same for a composed configuration, which YAML files and ${oc.env:...} may have put a secret in."""
    pairs = values.items() if isinstance(values, dict) else ((i, v) for i, v in enumerate(values))
    for name, value in pairs:
        key = f"{prefix}{name}"
        if holds_a_secret(key, value):
            raise UserError(refusal(key))
        if isinstance(value, (dict, list)):
            refuse_values(value, f"{key}.")


def refusal(key: str) -> str:
    if key.endswith("key_env"):
        return f"{key}=<hidden>: expected the NAME of an environment variable, such as OPENAI_API_KEY; export that one"
    return (
        f"{key}=<hidden>: a secret may not stand in a configuration, which is kept on the disk; export it in the "
        "environment instead (WANDB_API_KEY, HF_TOKEN, or for an endpoint a name of your own in eval.api.key_env)"
    )
