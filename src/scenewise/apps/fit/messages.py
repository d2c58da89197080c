"""The errors of jsonargparse, in one plain sentence without words of Python."""

import re

from scenewise.apps.options.fit import known_options, nearest_option

_PLAIN = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "timedelta": "a duration as h:m:s",
    "dict": "a table as {name: value}",
    "list": "a list as [a, b]",
    "tuple": "a list as [a, b]",
}


def one_sentence(text: str, command: str) -> str:
    """The error of an argument in one sentence, from the several lines of jsonargparse.

    >>> one_sentence('Parser key "model.lr": Expected a float. Got value: fast', "fit")
    "--model.lr is 'fast' but must be a number"
    >>> one_sentence("Subcommand 'fit' does not accept option 'model.netwrk'", "fit")
    "unknown option 'model.netwrk'; did you mean '--model.network'?"
    >>> one_sentence("Parser key \\"config\\": File does not exist: 'a.yaml'", "fit")
    "--config: File does not exist: 'a.yaml'"
    """
    flat = " ".join(text.split()).rstrip(".")
    unknown = re.fullmatch(r"Subcommand '\w+' does not accept option '(.*)'", flat)
    if unknown:
        hint = nearest_option(unknown[1], known_options(command))
        return f"unknown option '{unknown[1]}'; {hint}".rstrip("; ")
    key = re.match(r'Parser key "([^"]+)": .*?(?:Subtypes: \[|Expected an? )(.*)', flat)
    value = re.search(r"(?:Given|Got) value: (.*)", flat)
    if not key or not value:
        return re.sub(r'^Parser key "([^"]+)"', r"--\1", flat)
    types = re.split(r"\] Errors:|\. Got value:", key[2])[0]
    return f"--{key[1]} is '{value[1]}' but must be {_plain_types(types)}"


def _plain_types(types: str) -> str:
    """The alternatives of a type, for people.

    >>> _plain_types("<class 'int'>, tuple[int, int], <class 'NoneType'>")
    'a whole number, a list as [a, b] or null'
    >>> _plain_types("typing.Literal['sgd', 'adamw'], <class 'NoneType'>")
    'one of sgd, adamw or null'
    >>> _plain_types("<class 'lightning.pytorch.loggers.logger.Logger'>, <class 'bool'>")
    'the name of a Logger or true or false'
    """
    literals = re.findall(r"Literal\[([^\]]*)\]", types)
    words = [word.strip(" '") for literal in literals for word in literal.split(",")]
    rest = re.sub(r"(?:typing\.)?Literal\[[^\]]*\](?:, )?", "", types)
    rest = re.sub(r"<class '([\w.]+)'>", r"\1", rest)
    rest = re.sub(r"\[[^\]]*\]", "", rest)  # tuple[int, int] -> tuple
    names = [name.split(".")[-1] for name in rest.split(", ") if name]
    plain = [_PLAIN.get(name, f"the name of a {name}") for name in names]
    if words:
        plain.insert(0, f"one of {', '.join(dict.fromkeys(words))}")
    *first, last = dict.fromkeys(plain)
    return f"{', '.join(first)} or {last}" if first else last
