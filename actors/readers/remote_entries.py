"""The keys by which an operator names remote OpenAI endpoints, as JSON in an environment variable.

Decides types and limits, and what an error says. It must not ask any endpoint, and never repeats a value that may be
a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..probe import Broken

MOST_ENTRIES = 16
"""All endpoints of a node are asked at once."""
MOST_NAMES = 500


def _address(given: str) -> str:
    """An address that holds no secret."""
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be http://HOST or https://HOST")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError("should have a host name that can be looked up") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("should have no password, '?' or '#'; a key belongs into api_key_env")
    if parts.port == 0:  # reading it refuses what is no number
        raise ValueError("should have a port that one can listen on")
    return given.rstrip("/")


_Positive = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
_Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
DialectName = Literal["openai", "vllm", "llamacpp", "sglang", "trtllm", "ovms", "shardyard"]

_Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")]


class Entry(BaseModel):
    """One endpoint. What is left out is measured, or assumed with a note.

    Attributes:
        concurrency: sequences that it takes at once.
        api_key_env: name of the variable that holds its key.
        models: names that may be sent there; all that it offers when left out.
        names: our name of a model -> the name that it has there.
        dialect: what kind of server it is; asked for when left out.
        allow_private: it may have an address of this machine or of a private network.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: Annotated[str, Field(max_length=1000), AfterValidator(_address)]
    name: _Word | None = None
    concurrency: Annotated[int, Field(ge=1, le=65_536)] = 4
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    models: list[_Word] | None = None
    names: Annotated[dict[_Word, _Word], Field(max_length=MOST_NAMES)] = {}
    dialect: DialectName | None = None
    allow_private: bool = False
    tokens_per_s: _Positive | None = None
    ttft_ms: _Amount | None = None
    price_per_million_tokens: _Amount = 0.0
    uncertainty: _Amount | None = None

    @property
    def title(self) -> str:
        """Its name; the host's where it has none."""
        return self.name or urlsplit(self.url).netloc

    @property
    def label(self) -> str:
        """Its name as part of the name of a device class.

        >>> Entry(url="https://h", name="vllm-lab 2").label
        'VLLM_LAB_2'
        """
        return re.sub(r"[^A-Za-z0-9]+", "_", self.title).strip("_").upper() or "ENDPOINT"

    @property
    def root(self) -> str:
        """Where its routes begin, with the version.

        >>> Entry(url="https://h").root, Entry(url="https://h/v3").root
        ('https://h/v1', 'https://h/v3')
        """
        return self.url if re.search(r"/v[0-9]+$", self.url) else f"{self.url}/v1"

    def theirs(self, name: str) -> str:
        """The name that a model of ours has there.

        >>> Entry(url="https://h", names={"chat": "org/chat-8b"}).theirs("chat")
        'org/chat-8b'
        """
        return self.names.get(name, name)


def entries(variable: str, text: str) -> tuple[list[Entry], list[Broken]]:
    """The endpoints that are well described, and what is wrong with the others.

    >>> entries("V", '[{"url": "https://a", "concurency": 2}]')[1][0]
    Broken(reason='V[0].concurency: unknown key', hint='did you mean concurrency?')
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [], [Broken(reason=f"{variable} is not JSON: {_first_line(error)}", hint=_form())]
    if not isinstance(given, list) or len(given) > MOST_ENTRIES:
        reason = f"{variable} is not a list of at most {MOST_ENTRIES} endpoints"
        return [], [Broken(reason=reason, hint=_form())]
    good: list[Entry] = []
    bad: list[Broken] = []
    for index, one in enumerate(given):
        made = _entry(f"{variable}[{index}]", one)
        if isinstance(made, Broken):
            bad.append(made)
        elif made.label in [other.label for other in good]:
            reason = f"{variable}[{index}].name: {made.title!r} names another endpoint already"
            bad.append(Broken(reason=reason, hint="give each endpoint a name of its own"))
        elif made.root in [other.root for other in good]:
            reason = f"{variable}[{index}].url: {made.root} is another endpoint already"
            bad.append(Broken(reason=reason, hint="name each endpoint once"))
        else:
            good.append(made)
    return good, bad


def _entry(path: str, given: object) -> Entry | Broken:
    try:
        return Entry.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        first: Any = min(found, key=lambda f: f["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        says = str(first["msg"]).removeprefix("Input ").removeprefix("Value error, ")
        return Broken(reason=f"{path}{key and f'.{key}'}: {says}", hint=_form())
    near = difflib.get_close_matches(key, Entry.model_fields, n=1)
    known = f"known keys: {', '.join(Entry.model_fields)}"
    return Broken(
        reason=f"{path}.{key}: unknown key", hint=f"did you mean {near[0]}?" if near else known
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:100]


def _form() -> str:
    return '[{"url": "https://HOST", "name": "NAME", "concurrency": 8, "api_key_env": "VARIABLE"}]'
