"""The policy file: which subjects may do what in which folders.

[roles]                                  # names for sets of actions, beside viewer, editor and admin
importer = ["images.create", "images.get", "operations.get"]

[[grant]]
subjects = ["ci", "aje0123456789abcdefg"]  # "*" is every caller whose token is accepted
folders = ["b1g0123456789abcdefg"]         # "*" is every folder
actions = ["importer", "images.delete"]    # roles and actions
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.errors import UsageError
from service.auth import ALL_ACTIONS, Grants, Verb
from service.faults import shown

ANY_SUBJECT = "*"
_READING = (Verb.GET, Verb.LIST, Verb.LIST_ACCESS)
_CHANGING = (Verb.CREATE, Verb.UPDATE, Verb.DELETE, "cancel")
_READS = frozenset(action for action in ALL_ACTIONS if action.partition(".")[2] in _READING)
_WRITES = frozenset(action for action in ALL_ACTIONS if action.partition(".")[2] in _CHANGING)
ROLES: Mapping[str, frozenset[str]] = {"viewer": _READS, "editor": _READS | _WRITES, "admin": ALL_ACTIONS}


@dataclass(frozen=True, slots=True)
class Policy:
    """Subject to folder to actions; what is not named is not permitted."""

    grants: Mapping[str, Grants]
    _known: dict[str, Grants] = field(default_factory=dict, compare=False, repr=False)

    def grants_of(self, subject_id: str) -> Grants:
        """Return what is permitted to a subject, its own grants and everybody's together."""
        own = self.grants.get(subject_id)
        everybody = self.grants.get(ANY_SUBJECT, {})
        if own is None or not everybody:
            return own if own is not None else everybody
        if subject_id not in self._known:
            folders = own.keys() | everybody.keys()
            empty: frozenset[str] = frozenset()
            both = {folder: own.get(folder, empty) | everybody.get(folder, empty) for folder in folders}
            self._known[subject_id] = both
        return self._known[subject_id]


def parse(content: bytes) -> Policy:
    """Read a policy. Raises UsageError that names the entry that is wrong; unknown keys are wrong."""
    table = read_toml(content)
    refuse_unknown(table, ("roles", "grant"), "the file")
    roles = dict(ROLES)
    named = table.get("roles", {})
    if not isinstance(named, dict):
        raise UsageError("[roles] is not a table")
    for name, actions in named.items():
        if name in ROLES or name in ALL_ACTIONS:
            raise UsageError(f"role {shown(name)} is built in: choose another name")
        roles[name] = _actions(_strings(actions, f"role {shown(name)}"), ROLES, f"role {shown(name)}")
    grants: dict[str, dict[str, frozenset[str]]] = {}
    for index, entry in enumerate(tables(table, "grant"), 1):
        where = f"grant {index}"
        refuse_unknown(entry, ("subjects", "folders", "actions"), where)
        subjects, folders, words = (
            _strings(entry.get(key), f"{where}: {key}") for key in ("subjects", "folders", "actions")
        )
        actions = _actions(words, roles, where)
        for subject in subjects:
            for folder in folders:
                permitted = grants.setdefault(subject, {})
                permitted[folder] = permitted.get(folder, frozenset()) | actions
    return Policy(grants)


def read_toml(content: bytes) -> dict[str, object]:
    """Return the table of a TOML file. Raises UsageError."""
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"is not TOML: {error}") from error


def refuse_unknown(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    """Raise UsageError that names the keys of `table` that are not known."""
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise UsageError(f"{where} has unknown keys {', '.join(map(shown, unknown))}; known are {', '.join(known)}")


def tables(table: Mapping[str, object], key: str) -> list[dict[str, object]]:
    """Return an array of tables, empty when it is absent. Raises UsageError."""
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UsageError(f"{key} is not an array of tables: write [[{key}]]")
    return found


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(word, str) and word for word in value):
        return tuple(value)
    raise UsageError(f"{where} is not a list of strings with at least one entry")


def _actions(words: tuple[str, ...], roles: Mapping[str, frozenset[str]], where: str) -> frozenset[str]:
    actions: set[str] = set()
    for word in words:
        if word in roles:
            actions |= roles[word]
        elif word in ALL_ACTIONS:
            actions.add(word)
        else:
            known = ", ".join([*roles, *sorted(ALL_ACTIONS)])
            raise UsageError(f"{where}: {shown(word)} is neither a role nor an action; there are {known}")
    return frozenset(actions)
