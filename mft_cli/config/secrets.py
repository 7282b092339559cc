"""Secrets are kept out of configurations: whatever a configuration holds is written to run folders and ledgers.

A secret is recognised by the form of its value, wherever it stands, and by a key's exact name. Nothing in mft takes a
secret as a value. Libraries read theirs from the environment (WANDB_API_KEY, HF_TOKEN, COMET_API_KEY), and eval.api.key_env
names the variable that holds an endpoint's key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mft_cli.errors import UserError

FORMS = {  # of a value, or of a part of it -> the environment variable to use instead
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    r"\bhf_[A-Za-z0-9]{20,}\b": "HF_TOKEN",
    r"\bsk-[A-Za-z0-9_-]{16,}": "a variable that eval.api.key_env names, such as OPENAI_API_KEY",
    r"\bwandb_v\d_\w{20,}|(?<![\w/.-])[0-9a-f]{40}(?![\w/.-])": "WANDB_API_KEY",
    r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})": "GITHUB_TOKEN",
    r"\b(AIza[\w-]{35}|glpat-[\w-]{20,}|xox[abeprs]-[\w-]{10,}|nvapi-[\w-]{20,})": "the variable of the service that it opens",
    r"://[^/\s:@]*:[^/\s@]+@": "a variable, or a credentials file (~/.netrc)",
    r"(?i)[?&;#]([\w-]*(token|signature|api_?key|password|secret)|sig|key|awsaccesskeyid|x-amz-credential)=[^&\s]": (
        "a variable, or a credentials file (~/.netrc): the address without its signature"
    ),
}
NAMES = {
    "key", "api_key", "apikey", "access_key", "secret_key", "private_key", "token", "access_token", "auth_token", "api_token",
    "hf_token", "secret", "password", "passwd", "passphrase", "credential", "credentials",
}  # fmt: skip
ENDS = ("_api_key", "_access_key", "_secret_key", "_access_token", "_auth_token", "_secret", "_password")
VARIABLE = re.compile(r"[A-Z0-9_]*(KEY|TOKEN|SECRET|PASSWORD)")  # HF_TOKEN, as in hydra.job.env_set
COMMITS = ("revision", "version")  # keys whose value may be the 40 digits of a commit
FREE_NAMES = ("keep_if", "spans", "gold_fields")  # below these stand names of the user's data fields
HARMLESS = ("", "null", "none", "true", "false", "???")
# a shell line's assignment of a text; $VARIABLE and $(command) are no secret
IN_SHELL = re.compile(r"\b\w*(?:KEY|TOKEN|SECRET|PASSWORD)\w*=(?:[\"'][^$`\"']|[^\s$`\"'])")
IN_BRACES = re.compile(r"[{,]\s*['\"]?([\w.-]+)['\"]?\s*:\s*([^,{}\[\]]+)")
OVERRIDE = re.compile(r"^[+~]*([\w.@/\[\]-]+)=(.*)$", re.DOTALL)
ANY_VARIABLE = "a variable (WANDB_API_KEY, HF_TOKEN, or for an endpoint a name of your own in eval.api.key_env)"


def names_a_secret(key: str) -> bool:
    """Whether a key's last part is the name of a secret: eval.api.key, WANDB_API_KEY; not max_new_token or mask_token."""
    parts = re.split(r"[./]", key)
    if any(part in FREE_NAMES for part in parts[:-1]):
        return False
    name = parts[-1].lower().replace("-", "_")
    return name in NAMES or name.endswith(ENDS) or bool(VARIABLE.fullmatch(parts[-1]))


def variable_for(key: str, text: str) -> str | None:
    """The environment variable to use for the secret whose form `text` has; None for a text that has no such form."""
    name = key.rsplit(".", 1)[-1]
    for form, variable in FORMS.items():
        match = re.search(form, text)
        if match and not (name in COMMITS and re.fullmatch("[0-9a-f]{40}", match[0])):
            return variable
    return None


def instead_of_secret(key: str, value: object) -> str | None:
    """The environment variable to use instead, if this setting would put a secret on the disk; else None."""
    if isinstance(value, (dict, list, bool)) or value is None:
        return None
    text = str(value).strip("'\" ")
    if text.lower() in HARMLESS:
        return None
    if variable := variable_for(key, text):
        return variable
    if key.endswith("key_env"):
        return None if re.fullmatch(r"[A-Za-z_]\w*", text) else "the NAME of a variable, such as OPENAI_API_KEY"
    in_shell = "setup" in key.split(".") and IN_SHELL.search(text)
    return ANY_VARIABLE if in_shell or names_a_secret(key) else None


def hide_secret(argument: str) -> str:
    """A command line's word; an override such as eval.api_key=... keeps its key and loses its value."""
    if not any(secrets_in(argument)):
        return argument
    return f"{argument.partition('=')[0]}=<hidden>" if OVERRIDE.match(argument) else "<hidden>"


def secrets_in(argument: str) -> Iterator[tuple[str, str]]:
    """(key, environment variable to use instead) of the secrets in a word: its value, or one inside of {...}."""
    override = OVERRIDE.match(argument)
    if override is None:
        if variable := variable_for("", argument):
            yield "a word of the command line", variable
        return
    key, value = override[1].split("@")[0], override[2]
    inner = [(f"{key}.{name}", text.strip()) for name, text in IN_BRACES.findall(value)]
    for name, text in [*inner, (key, value)]:
        if variable := instead_of_secret(name, text):
            yield name, variable


def refuse_arguments(arguments: list[str]) -> None:
    """Before anything is written. Raises UserError that names the key and hides the value."""
    for argument in arguments:
        for key, variable in secrets_in(argument):
            raise UserError(refusal(key, variable))


def refuse_values(values: object, prefix: str = "") -> None:
    """The same for a composed configuration, which YAML files and ${oc.env:...} may have put a secret in."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in pairs:
        key = f"{prefix}{name}"
        if variable := instead_of_secret(key, value):
            raise UserError(refusal(key, variable))
        refuse_values(value, f"{key}.")


def refusal(key: str, variable: str) -> str:
    if key.endswith("key_env"):
        return f"{key}=<hidden>: expected the NAME of an environment variable, such as OPENAI_API_KEY; export that one"
    return (
        f"{key}=<hidden>: a secret may not stand in a configuration, which is kept on the disk; keep it in the environment "
        f"instead: {variable}"
    )
