"""Builds a tokenizer from what a model file says of its vocabulary.

Decides which kinds of tokenizers are supported. Control tokens are kept out of the tokenizer on purpose: it cannot make
them from any text. It must not know chat templates or requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer

from placement.modelspec import ModelFacts

from .checkpoint import read_checkpoint, read_json
from .errors import ModelError
from .gguf import GgufHeader, Value, read_gguf

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Everything of a model that concerns text.

    Attributes:
        tokenizer: text -> ids; knows no control token.
        pieces: the UTF-8 bytes of each id, which may be half a character; empty for control tokens.
        control: control tokens by string.
        names: what templates call them, e.g. `bos_token` -> `<s>`.
        bos_ids: what a raw prompt starts with.
        strip_first_space: the first piece of a text carries a space that does not belong to it.
    """

    tokenizer: Tokenizer
    pieces: tuple[bytes, ...]
    control: Mapping[str, int]
    names: Mapping[str, str]
    eos_ids: tuple[int, ...]
    bos_ids: tuple[int, ...]
    chat_template: str
    strip_first_space: bool = False


def gguf_vocabulary(path: Path) -> tuple[Vocabulary, ModelFacts]:
    """The vocabulary and facts of a GGUF file.

    Raises:
        ModelError: the file is broken, or its kind of tokenizer is not supported.
    """
    header = read_gguf(path)
    tokens = header.texts("tokenizer.ggml.tokens")
    kinds = _kinds(header, len(tokens))
    control = {text: n for n, text in enumerate(tokens) if kinds[n] == _CONTROL}
    user = [text for n, text in enumerate(tokens) if kinds[n] == _USER_DEFINED]
    vocabulary = Vocabulary(
        tokenizer=_byte_pair_encoder(header, tokens, control, user),
        pieces=_pieces(tokens, _byte_piece, control, user),
        control=control,
        names=_names(header, tokens),
        eos_ids=_ids(header, len(tokens), "eos", "eot", "eom"),
        bos_ids=_ids(header, len(tokens), "bos") if _wants_bos(header) else (),
        chat_template=header.text("tokenizer.chat_template"),
    )
    return vocabulary, header.facts


def _kinds(header: GgufHeader, count: int) -> Sequence[Value]:
    kinds = header.values.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, tuple) or len(kinds) != count or not count:
        raise ModelError(
            f"{header.path} has {count} tokens without a type for each", hint="use another file"
        )
    return kinds


def _wants_bos(header: GgufHeader) -> bool:
    return header.values.get("tokenizer.ggml.add_bos_token") is True


def _ids(header: GgufHeader, count: int, *roles: str) -> tuple[int, ...]:
    found = (header.whole(f"tokenizer.ggml.{role}_token_id") for role in roles)
    return tuple(dict.fromkeys(n for n in found if n is not None and 0 <= n < count))


def _names(header: GgufHeader, tokens: Sequence[str]) -> dict[str, str]:
    named = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    ids = {name: _ids(header, len(tokens), role) for role, name in named.items()}
    return {f"{name}_token": tokens[found[0]] if found else "" for name, found in ids.items()}


def _byte_pair_encoder(
    header: GgufHeader, tokens: Sequence[str], control: Mapping[str, int], user: Iterable[str]
) -> Tokenizer:
    kind, pre = header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{header.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported",
            hint="supported: gpt2 with " + ", ".join(_PRE_TOKENIZERS),
        )
    merges = [_pair(merge) for merge in header.texts("tokenizer.ggml.merges")]
    vocab = {text: n for n, text in enumerate(tokens) if text not in control}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == _LLAMA))
    except Exception as error:  # noqa: BLE001 - the library raises bare exceptions
        raise ModelError(f"{header.path}: the tokenizer's merges are broken: {error}") from None
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    if pre == _QWEN:
        tokenizer.normalizer = normalizers.NFC()
    return _with_added(tokenizer, user)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _with_added(tokenizer: Tokenizer, added: Iterable[str]) -> Tokenizer:
    """Lets strings of the vocabulary be tokens wherever they occur in a text."""
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


def _splitting(pattern: str) -> Callable[[], PreTokenizer]:
    def build() -> PreTokenizer:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, _bytes(use_regex=False)])

    return build


def _bytes(*, use_regex: bool = True) -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _bytes()])


_LLAMA, _QWEN = "llama-bpe", "qwen2"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _bytes,
    "smollm": _single_digits,
    _LLAMA: _splitting(_CONTRACTION + _WORD + r"\p{N}{1,3}" + _REST),
    _QWEN: _splitting(_CONTRACTION + _WORD + r"\p{N}" + _REST),
}
"""How text is cut into words before merging, by the name that GGUF files use."""


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: printable Latin-1 stands for itself, the rest follows from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(n): n for n in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_of_character()


def _byte_piece(token: str) -> bytes:
    try:
        return bytes([_BYTES[character] for character in token])
    except KeyError:
        return token.encode(errors="replace")


def _spaced_piece(token: str) -> bytes:
    """The piece of a vocabulary that writes spaces as U+2581 and single bytes as `<0x0A>`."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("\u2581", " ").encode(errors="replace")


def _pieces(
    tokens: Sequence[str],
    piece: Callable[[str], bytes],
    control: Mapping[str, int],
    user: Iterable[str],
) -> tuple[bytes, ...]:
    found = [b"" if token in control else piece(token) for token in tokens]
    numbers = {token: n for n, token in enumerate(tokens)}
    for token in user:
        found[numbers[token]] = token.encode(errors="replace")
    return tuple(found)


def hf_vocabulary(folder: Path) -> tuple[Vocabulary, ModelFacts]:
    """The vocabulary and facts of a Hugging Face model directory.

    Raises:
        ModelError: a file is missing or broken, or the kind of tokenizer is not supported.
    """
    facts = read_checkpoint(folder)
    described = read_json(folder / "tokenizer.json")
    model = described.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise ModelError(
            f"{folder}/tokenizer.json describes {model.get('type', 'no tokenizer')}, not BPE",
            hint="use a model with a byte-pair tokenizer",
        )
    added = [_added(folder, entry) for entry in described.get("added_tokens") or ()]
    control = {text: n for text, n, special in added if special}
    user = {text: n for text, n, special in added if not special}
    tokens = _numbered(folder, {**model["vocab"], **user, **control})
    by_bytes = "ByteLevel" in json.dumps(described.get("decoder"))
    settings = read_json(folder / "tokenizer_config.json")
    names = _named_tokens(settings)
    vocabulary = Vocabulary(
        tokenizer=_plain_tokenizer(folder, described, control, user),
        pieces=_pieces(tokens, _byte_piece if by_bytes else _spaced_piece, control, user),
        control=control,
        names=names,
        eos_ids=_eos_ids(folder, control.get(names.get("eos_token", ""))),
        bos_ids=_bos_ids(settings, control.get(names.get("bos_token", ""))),
        chat_template=_chat_template(folder, settings),
        strip_first_space=not by_bytes,
    )
    return vocabulary, facts


def _added(folder: Path, entry: Any) -> tuple[str, int, bool]:
    try:
        text, number = entry["content"], entry["id"]
    except (TypeError, KeyError):
        text = number = None
    if not isinstance(text, str) or not isinstance(number, int):
        raise ModelError(f"{folder}/tokenizer.json: added token {entry!r} has no id or content")
    return text, number, entry.get("special") is True


def _numbered(folder: Path, vocab: Mapping[str, int]) -> list[str]:
    numbers = vocab.values()
    if not all(isinstance(n, int) and 0 <= n < 2**22 for n in numbers):
        raise ModelError(f"{folder}/tokenizer.json has token ids that cannot be")
    tokens = [""] * (max(numbers, default=-1) + 1)
    for text, number in vocab.items():
        tokens[number] = text
    return tokens


def _plain_tokenizer(
    folder: Path, described: dict[str, Any], control: Mapping[str, int], user: Mapping[str, int]
) -> Tokenizer:
    """The tokenizer without control tokens and without what it would add to a text by itself."""
    vocab = {t: n for t, n in (described["model"]["vocab"] | user).items() if t not in control}
    model = {**described["model"], "vocab": vocab}
    if model.get("unk_token") in control:
        model["unk_token"] = None
    plain = {
        **described, "model": model, "added_tokens": list[Any](),
        "post_processor": None, "truncation": None, "padding": None,
    }  # fmt: skip
    try:
        return _with_added(Tokenizer.from_str(json.dumps(plain)), user)
    except Exception as error:  # noqa: BLE001 - the library raises bare exceptions
        raise ModelError(f"{folder}/tokenizer.json is broken: {error}") from None


def _named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    found = {name: settings.get(name) for name in names}
    return {n: t["content"] if isinstance(t, dict) else t or "" for n, t in found.items()}


def _eos_ids(folder: Path, eos: int | None) -> tuple[int, ...]:
    """What the model's generation settings say, else its configuration, and the tokenizer's own."""
    for name in ("generation_config.json", "config.json"):
        given = read_json(folder / name).get("eos_token_id")
        ids = given if isinstance(given, list) else [given]
        found = [n for n in (*ids, eos) if isinstance(n, int)]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def _bos_ids(settings: Mapping[str, Any], bos: int | None) -> tuple[int, ...]:
    return (bos,) if settings.get("add_bos_token") is True and bos is not None else ()


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = settings.get("chat_template") or ""
    if isinstance(given, list):
        named = {t.get("name"): t.get("template") for t in given if isinstance(t, dict)}
        given = named.get("default") or ""
    return given if isinstance(given, str) else ""
