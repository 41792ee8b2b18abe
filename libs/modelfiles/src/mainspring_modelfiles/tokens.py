"""Vocabularies: from `tokenizer.json` to what GGUF says about tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from gguf import GGUFWriter, TokenType

from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.sources import file_in, read_json

# The pattern with which Llama 3 splits text before byte-pair encoding; llama.cpp knows it as `llama-bpe`.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class SpecialTokens:
    """Texts of the tokens that begin and end, empty where there is none."""

    bos: str
    eos: str
    pad: str
    unk: str


def special_tokens(folder: Path) -> SpecialTokens:
    """What `tokenizer_config.json` (else `special_tokens_map.json`) calls the special tokens."""
    named = {
        **(read_json(folder, "special_tokens_map.json") or {}),
        **(read_json(folder, "tokenizer_config.json") or {}),
    }

    def text(key: str) -> str:
        value = named.get(key)
        return value["content"] if isinstance(value, dict) else str(value or "")

    return SpecialTokens(text("bos_token"), text("eos_token"), text("pad_token"), text("unk_token"))


def chat_template(folder: Path) -> str:
    """The chat template: `chat_template.jinja`, else the default one of `tokenizer_config.json`, else empty.

    Raises:
        Refused: CHAT_TEMPLATE_INVALID.
    """
    path = file_in(folder, "chat_template.jinja")
    if path is not None:
        template: Any = path.read_text(encoding="utf-8", errors="strict") if path.stat().st_size <= 1 << 18 else None
    else:
        template = (read_json(folder, "tokenizer_config.json") or {}).get("chat_template", "")
        if isinstance(template, list):
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default", "")
    if not isinstance(template, str) or len(template) > 1 << 18:
        raise Refused("CHAT_TEMPLATE_INVALID", "the chat template is no text of at most 256 KiB")
    return template


def load_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, Mapping[str, Any]]:
    """The tokenizer and its JSON.

    Raises:
        Refused: TOKENIZER_MISSING or TOKENIZER_UNSUPPORTED.
    """
    described = read_json(folder, "tokenizer.json")
    if described is None:
        raise Refused("TOKENIZER_MISSING", "there is no tokenizer.json; save the tokenizer with a current transformers")
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(described)), described
    except Exception as err:  # The library raises bare Exceptions.
        raise Refused("TOKENIZER_UNSUPPORTED", f"tokenizer.json cannot be read: {err}") from err


def write_byte_level_bpe(writer: GGUFWriter, folder: Path, rows: int) -> None:
    """Writes a byte-level BPE vocabulary of `rows` tokens, the number of rows of the embedding matrix.

    Raises:
        Refused: TOKENIZER_UNSUPPORTED, llama.cpp would split text otherwise than this tokenizer does.
    """
    tokenizer, described = load_tokenizer(folder)
    model = described["model"]
    pre = _pre_tokenizer(described)
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    by_id = {number: token for token, number in vocabulary.items()}
    if by_id and max(by_id) >= rows:
        raise _unsupported(f"names token {max(by_id)}, but the model has only {rows}")
    special = {t["id"]: bool(t.get("special")) for t in described.get("added_tokens") or ()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    # Ids without a token keep the matrix and the vocabulary equally long.
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(rows)])
    writer.add_token_types([_token_type(i, i in by_id, special) for i in range(rows)])
    merges = model.get("merges") or []
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    _write_special(writer, tokenizer, special_tokens(folder), vocabulary)


def _token_type(number: int, known: bool, special: Mapping[int, bool]) -> TokenType:
    if not known:
        return TokenType.UNUSED
    if number not in special:
        return TokenType.NORMAL
    return TokenType.CONTROL if special[number] else TokenType.USER_DEFINED


def _write_special(
    writer: GGUFWriter, tokenizer: tokenizers.Tokenizer, special: SpecialTokens, vocabulary: Mapping[str, int]
) -> None:
    bos, eos = vocabulary.get(special.bos), vocabulary.get(special.eos)
    if eos is None:
        raise _unsupported(f"has no token {special.eos!r}, with which answers should end")
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.encode("a", add_special_tokens=True).ids
    adds_bos, adds_eos = whole[: len(whole) - len(bare)] == [bos] and whole != bare, whole == [*bare, eos]
    if whole != bare and not adds_bos and not adds_eos:
        raise _unsupported("puts other tokens around a text than its first and last one")
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    for text, add in ((special.pad, writer.add_pad_token_id), (special.unk, writer.add_unk_token_id)):
        if text in vocabulary:
            add(vocabulary[text])
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(adds_eos)
    writer.add_add_space_prefix(False)


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer splits text before byte-pair encoding."""
    model = described.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or described.get("normalizer"):
        raise _unsupported("is not plain byte-level BPE")
    steps = described.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers") or [] if steps.get("type") == "Sequence" else [steps]
    *before, last = parts or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise _unsupported("does not work on bytes as they stand")
    uses_regex = last.get("use_regex", True)
    ignores_merges = bool(model.get("ignore_merges"))
    match before:
        case [] if uses_regex and not ignores_merges:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}] if uses_regex and not ignores_merges:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}] if pattern == _LLAMA3_PATTERN:
            if not uses_regex:
                return "llama-bpe"
        case _:
            pass
    raise _unsupported("splits text in a way that has no name in llama.cpp")


def _unsupported(what: str) -> Refused:
    return Refused("TOKENIZER_UNSUPPORTED", f"the tokenizer {what}; import a GGUF made by llama.cpp's own converter")
