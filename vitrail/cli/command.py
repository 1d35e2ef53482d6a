"""What a command is, and the parts that several share. Imports no torch."""
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from vitrail.core.errors import SettingsError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand: its arguments, what it does with them, and its page of help.

    `run` returns the exit code. `parse`, where given, reads the words after the command's name itself.
    """

    about: str
    run: Callable[[Any], int]
    arguments: Callable[[ArgumentParser], None] = lambda parser: None
    parse: Callable[[str, Sequence[str]], Namespace | None] | None = None


class Parser(ArgumentParser):
    """argparse whose complaints are SettingsErrors, and which names the nearest option for an unknown one."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}{'' if message.endswith(('.', '?')) else '.'} See {self.prog} --help")

    def read(self, words: Sequence[str]) -> Namespace:
        """The arguments. Raises SettingsError for anything that is none of this command's."""
        known, unknown = self.parse_known_args(list(words))
        for word in unknown:
            if word.startswith("-"):
                option = word.partition("=")[0]
                hint = did_you_mean(option, self._option_string_actions)
                raise SettingsError(f"{self.prog} has no option {option!r}.{hint} See {self.prog} --help")
            raise SettingsError(f"{self.prog} has its arguments already, and {word!r} is one more. "
                                f"See {self.prog} --help")
        return known


def parser_of(name: str, command: Command) -> Parser:
    """The parser of a command, with the options that every command has."""
    parser = Parser(prog=f"vitrail {name}", description=command.about, allow_abbrev=False,
                    formatter_class=RawDescriptionHelpFormatter)
    command.arguments(parser)
    add_common(parser)
    return parser


def add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON value for a program to read")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """An argument's type: one of these words; the nearest is named for another."""
    allowed = tuple(choices)

    def check(text: str) -> str:
        if text not in allowed:
            raise ArgumentTypeError(f"{text!r} is not one of {', '.join(allowed)}.{did_you_mean(text, allowed)}")
        return text
    return check


def whole(low: int, high: int = 1 << 30) -> Callable[[str], int]:
    """An argument's type: a whole number in [low, high]."""
    def check(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is no whole number") from None
        if not low <= number <= high:
            raise ArgumentTypeError(f"{number} is not in {low} to {high}")
        return number
    return check


def add_model(parser: ArgumentParser) -> None:
    """MODEL, and where the tensors of a catalogue name come from."""
    parser.add_argument("model", metavar="MODEL", help="a run's folder, a saved model's folder, or a name of the "
                                                       "catalogue with --weights")
    parser.add_argument("--weights", default="", metavar="FROM",
                        help="for a name: a release (`vitrail show NAME` lists them), a file, https://... or hf://...")
    parser.add_argument("--keys", default="", metavar="LAYOUT", help="the layout of a file: vitrail, timm, official")


def add_batch(parser: ArgumentParser, default: int) -> None:
    parser.add_argument("--batch", type=whole(1), default=default, metavar="N", help=f"images at a time ({default})")


def add_place(parser: ArgumentParser) -> None:
    """Where a model is run."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    add_threads(parser)


def add_threads(parser: ArgumentParser) -> None:
    parser.add_argument("--threads", type=whole(0, 4096), default=0, metavar="N",
                        help="of the processor; 0: torch's choice (0)")


PRECISIONS = ("fp32", "bf16", "int8")


def add_optimize(parser: ArgumentParser) -> None:
    parser.add_argument("--optimize", type=one_of(PRECISIONS), metavar="NAME",
                        help="rewrite the model for this processor first: fp32, bf16, int8 (`vitrail optimize` tries "
                             "them); the first batch is compared with the model, and calibrates int8")


def add_on_error(parser: ArgumentParser) -> None:
    parser.add_argument("--on-error", type=one_of(("stop", "skip")), default="stop", metavar="stop|skip",
                        help="at an image that cannot be read: stop, or leave it out and list it (stop)")


def add_out(parser: ArgumentParser, metavar: str, about: str, *, required: bool = False) -> None:
    parser.add_argument("--out", default="", metavar=metavar, required=required, help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
