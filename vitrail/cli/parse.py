"""The words of a command as settings: flags and positional arguments made from a dataclass, over a file of TOML.

`--weight-decay 0.1`, `--weight_decay=0.1` and, for a command without positional arguments, `weight_decay=0.1` say the
same; `--compile` and `--no-compile` are yes and no. What follows a name is read by the setting's kind: a text as it
stands, a number as TOML has it. A part's setting answers to its path too: `--training.lr 0.1`.
"""
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from vitrail.cli.flags import dashed, metavar, without_none
from vitrail.core import catalogue, toml
from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core.leaves import Leaf, leaf_names, leaves
from vitrail.core.settings import Checked
from vitrail.core.task import Task, find_task, task_for, task_names
from vitrail.core.validation import is_open_ended

S = TypeVar("S", bound=Checked)
COMMON = ("settings", "help", "json", "debug")          # flags beside the settings
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Common:
    """The flags that every command has."""

    settings: str = ""
    json: bool = False
    debug: bool = False


def read(kind: type[S], words: Sequence[str], *, command: str = "train") -> tuple[S, Common]:
    """The settings that the words of a command give, and the flags that every command has.

    Raises SettingsError on any other word.

        settings, common = read(ClassificationSettings, ["--out", "runs/a", "--lr", "0.1", "--json"])
    """
    reader = _Reader(kind, words, command)
    from_words, common = reader.values, reader.common
    from_file: dict[str, Any] = {}
    if common.settings:
        from_file = _of_file(kind, Path(common.settings))
    given = {**from_file, **from_words}
    for leaf in leaves(kind):
        if leaf.default is MISSING and leaf.path not in given:
            raise SettingsError(_needed(leaf, command))
    try:
        return kind.of(given), common
    except SettingsError as e:
        raise SettingsError(f"{_origin(kind, str(e), from_words, from_file, common.settings)}{e}") from None


def _origin(kind: type[Checked], message: str, from_words: Mapping[str, Any], from_file: Mapping[str, Any],
            file: str) -> str:
    """Where the value came from that a message complains of: `file.toml: `, or `--flag: ` where the flag is called
    otherwise than the setting; nothing where that is plain."""
    for leaf in leaves(kind):
        names = {leaf.path, leaf.name, leaf.path.rpartition(".")[2]}
        if not any(repr(name) in message for name in names):
            continue
        if leaf.path in from_words:
            return "" if leaf.path.endswith(leaf.name) else f"--{dashed(leaf.name)}: "
        if leaf.path in from_file:
            return f"{file}: "
    return ""


def wants_help(kind: type[Checked], words: Sequence[str]) -> bool:
    """Whether the words ask for the page of help, or say nothing where a flag is needed."""
    if any(word in ("-h", "--help") for word in words):
        return True
    needed = [leaf for leaf in leaves(kind) if leaf.default is MISSING]
    return not words and bool(needed) and not any(leaf.positional for leaf in needed)


def value_of(kind: type[Checked], path: str, words: Sequence[str]) -> Any:
    """What the words, or else the file of settings that they name, say of one leaf; None where they say nothing.

    For finding out of which kind the settings are: nothing is checked, and a file that cannot be read says nothing.
    """
    leaf = leaf_names(kind)[path]
    values: dict[str, str | None] = {}
    for word, after in zip(words, [*words[1:], None], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if equals or word.startswith("--"):
            values.setdefault(name.replace("-", "_"), value if equals else after)
    given = next((values[name] for name in (leaf.name, leaf.path) if values.get(name) is not None), None)
    if given is not None or not values.get("settings"):
        return given
    try:
        return _lookup(toml.load(Path(str(values["settings"]))), leaf)
    except SettingsError:
        return None


def task_of(words: Sequence[str]) -> Task:
    """The task that the words name, or that of the model which they name; the first task where they name none."""
    first = find_task(task_names()[0])
    named = value_of(first.settings_type, "task", words)
    model = value_of(first.settings_type, "model.name", words)
    if not named and model not in catalogue.entries():
        return first
    return task_for(str(model), str(named or ""))


def _lookup(table: Mapping[str, Any], leaf: Leaf) -> Any:
    """A leaf's value in a file, which has it by its path or by its name."""
    value: Any = table
    for name in leaf.path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    flat = table.get(leaf.name)
    return flat if value is None and not isinstance(flat, Mapping) else value


def _of_file(kind: type[Checked], path: Path) -> dict[str, Any]:
    try:
        return kind.by_path(toml.load(path), renamed=True)
    except SettingsError as e:
        raise e if str(path) in str(e) else SettingsError(f"{path}: {e}") from None


def _needed(leaf: Leaf, command: str) -> str:
    if leaf.positional:
        return f"vitrail {command} needs {metavar(leaf)}: {leaf.help or 'a name'}. See vitrail {command} --help"
    return f"the setting {leaf.path!r} is needed: --{dashed(leaf.name)} {metavar(leaf)}, {leaf.help}"


class _Reader:
    """One pass over a command's words. values: what they say, by the leaves' paths."""

    def __init__(self, kind: type[Checked], words: Sequence[str], command: str):
        self.kind, self.command = kind, command
        self.positional = [leaf for leaf in leaves(kind) if leaf.positional]
        self.names = {name: leaf for name, leaf in leaf_names(kind).items() if not leaf.positional}
        self.rest = list(words)
        self.values: dict[str, Any] = {}
        self.common = Common()
        arguments: list[str] = []
        while self.rest:
            word = self.rest.pop(0)
            if word == "--" and self.positional:
                arguments += self.rest
                self.rest = []
            elif self._is_argument(word):
                arguments.append(word)
            else:
                self._flag(word)
        self._place(arguments)

    def _is_argument(self, word: str) -> bool:
        """Whether a word stands for itself: not a flag, or a number below zero, or a lone dash."""
        takes = bool(self.positional) or not self.names
        return takes and (not word.startswith("-") or word == "-" or bool(_NUMBER.fullmatch(word)))

    def _flag(self, word: str) -> None:
        name, flagged, value = self._split(word)
        if name in ("json", "debug") and flagged and value is None:
            setattr(self.common, name, True)
        elif name == "settings" and flagged:
            if self.common.settings:
                raise SettingsError("--settings is given twice: one file at a time")
            self.common.settings = value if value is not None else self._next("--settings", "FILE.toml")
        else:
            self._setting(name, value)

    def _setting(self, name: str, value: str | None) -> None:
        bare = name.removeprefix("no_")
        off = bare != name and name not in self.names and bare in self.names and self.names[bare].kind is bool
        leaf = self.names.get(bare if off else name)
        if leaf is None:
            raise SettingsError(self._unknown(name))
        taken = self._take(leaf, value, off)
        if leaf.path in self.values and not is_open_ended(leaf.kind):
            raise SettingsError(f"the setting {leaf.name!r} is given twice: {self.values[leaf.path]!r} and {taken!r}")
        self.values[leaf.path] = (*self.values.get(leaf.path, ()), *taken) if is_open_ended(leaf.kind) else taken

    def _unknown(self, name: str) -> str:
        if name in self.kind.RENAMED:
            today, version = self.kind.RENAMED[name]
            return f"the setting {name!r} is called {today!r} since vitrail {version}: --{dashed(today)}"
        names = [leaf.path if "." in name else leaf.name for leaf in self.names.values()]
        off = [f"no_{leaf.name}" for leaf in self.names.values() if leaf.kind is bool and name.startswith("no_")]
        return (f"there is no setting {name!r}.{did_you_mean(name, dict.fromkeys([*names, *COMMON, *off]))} "
                f"See vitrail {self.command} --help")

    def _split(self, word: str) -> tuple[str, bool, str | None]:
        """(name with underscores, whether dashes stood before it, what stood behind an equals sign)"""
        flagged = word.startswith("--") and len(word) > 2
        name, equals, value = word.removeprefix("--").partition("=")
        if not flagged and (not equals or self.positional):
            hint = " A flag has two dashes." if word.startswith("-") else ""
            either = "" if self.positional else ", or name=value"
            raise SettingsError(f"{word!r} is not a setting: write --name value{either}.{hint}")
        return name.replace("-", "_"), flagged, value if equals else None

    def _take(self, leaf: Leaf, value: str | None, off: bool) -> Any:
        """The value of a leaf from behind its equals sign or from the words that follow."""
        kind = without_none(leaf.kind)
        flag = f"--{dashed(leaf.name)}"
        if kind is bool:
            return self._take_bool(leaf, value, off)
        if get_origin(kind) is not tuple or (value is not None and not is_open_ended(kind)):
            return _typed(value if value is not None else self._next(flag, metavar(leaf)), kind)
        many = None if is_open_ended(kind) else len(get_args(kind))
        texts = [value] if value is not None else []
        while not texts or (value is None and len(texts) != many and self.rest and not self.rest[0].startswith("--")):
            texts.append(self._next(flag, metavar(leaf)))
        if len(texts) == 1 and texts[0].startswith("["):
            return toml.value(texts[0])
        return tuple(_typed(text, get_args(kind)[0]) for text in texts)

    def _take_bool(self, leaf: Leaf, value: str | None, off: bool) -> Any:
        if off and value is not None:
            raise SettingsError(f"--no-{dashed(leaf.name)} takes no value")
        if value is None:
            follows = not off and not self.positional and self.rest and self.rest[0] in ("true", "false")
            value = self.rest.pop(0) if follows else "true"
        return not off if value == "true" else toml.value(value)

    def _next(self, flag: str, shown: str) -> str:
        if not self.rest or self.rest[0].startswith("--"):
            raise SettingsError(f"{flag} needs a value: {flag} {shown}")
        return self.rest.pop(0)

    def _place(self, arguments: list[str]) -> None:
        """The words without a flag, in the order of the positional leaves; a list takes all that are left."""
        for leaf in self.positional:
            if arguments and is_open_ended(leaf.kind):
                self.values[leaf.path] = tuple(_typed(text, get_args(leaf.kind)[0]) for text in arguments)
                arguments = []
            elif arguments:
                self.values[leaf.path] = _typed(arguments.pop(0), leaf.kind)
        if arguments:
            raise SettingsError(f"vitrail {self.command} has its arguments already, and {arguments[0]!r} is one more. "
                                f"See vitrail {self.command} --help")


def _typed(text: str, kind: Any) -> Any:
    """A text by its kind: as it stands where a text is wanted, as a number where one is."""
    if kind is str or get_origin(kind) is Literal:
        return text
    value = toml.value(text)
    return float(text) if isinstance(value, str) and _NUMBER.fullmatch(text) else value     # .5 and 1. too
