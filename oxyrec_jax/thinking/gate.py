"""The quality gate: which answers become instructions, and why the others do not.

A language model's answer is outside text as well. It must be the JSON that was asked
for, of the right length and language, say something about this user's data, and show
no sign of having obeyed a sentence in them. Every refusal has one name of `REASONS`.
"""

import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import NamedTuple

from oxyrec_jax.base import InputError
from oxyrec_jax.thinking.prompts import LANGUAGES, without_hidden

REASONS = ("not-json", "schema", "empty", "short", "long", "language", "url", "contact",
           "blocked", "injection", "ungrounded")
SCRIPTS = {"zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
           "ko": ("HANGUL",), "ru": ("CYRILLIC",), "en": ("LATIN",),
           "de": ("LATIN",), "fr": ("LATIN",), "es": ("LATIN",)}
# Words that are frequent in one of these languages and rare in the others.
STOP_WORDS = {
    "en": frozenset("the and of to for with that this is are her his their who from "
                    "as it be by on at or an has have will needs while during".split()),
    "de": frozenset("der die das und ist nicht ein eine einen mit für auf zu den dem "
                    "sich von im sie wird auch sucht nach".split()),
    "fr": frozenset("le la les et est une des du pour avec dans qui sur pas que ses "
                    "il elle sont cherche aux au".split()),
    "es": frozenset("el los las y es una del para con que por se su en un como busca "
                    "necesita sus al".split()),
}
_COMMON = frozenset().union(*STOP_WORDS.values()) | frozenset(
    "a in look looking find buy need want some any new good best next person likely "
    "shop shopping item items product products".split())
_URL = re.compile(r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|cn|ru|info|biz|shop|xyz|"
                  r"top|co|app|link|site)\b|://")
_CONTACT = re.compile(r"\w@\w|\d[\d\s().-]{7,}\d|whats ?app\b|telegram\b|wechat\b")
_ORDER = re.compile(
    r"ignore (?:all|any|the|your|previous|prior|above|everything|these)|"
    r"disregard (?:all|any|the|your|previous|prior|above)|forget (?:all|every|your|the "
    r"(?:above|previous))|(?:previous|prior|above|earlier|new) (?:instruction|prompt|"
    r"order|rule)s?\b|system ?(?:prompt|message|:)|\b(?:assistant|developer|user) ?:|"
    r"you (?:are|must) now\b|you must (?:answer|reply|write|recommend|say|output)|"
    r"(?:answer|reply|respond|output|print|write|say|repeat) (?:only|exactly|with|the "
    r"(?:following|words?))\b|as an ai\b|language model|jailbreak|<\||\|>|\[/?inst\]|"
    r"</?(?:data|system|script|s)\b|```|override|忽略|无视|系统提示|ignorier|ignorez|"
    r"ignora (?:las|todas|tod)")
# One of these is in every text that the pattern above finds; looking is much faster.
_HINTS = ("ignor", "disregard", "forget", "instruction", "prompt", "order", "rule",
          "system", "assistant", "developer", "user", "you", "answer", "reply",
          "respond", "output", "print", "write", "say", "repeat", "as an ai",
          "language model", "jailbreak", "<", "|>", "inst]", "```", "override", "忽略",
          "无视", "系统提示")
_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """What an answer must be. Defaults are ours.

    Attributes:
      language: of `prompts.LANGUAGES`; "any" checks none.
      script: least share of its letters in the language's script.
      shortest, longest: characters of an instruction.
      shared: content words that it must share with the user's data or the knowledge.
      evidence: at least one quotation must stand in the user's data.
      blocked: words that must not occur, in any case, as whole words.
    """

    language: str = "en"
    script: float = 0.8
    shortest: int = 10
    longest: int = 400
    shared: int = 1
    evidence: bool = True
    blocked: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """The instruction, or why there is none (one of `REASONS`)."""

    text: str | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Given:
    """What one answer may rest on.

    Attributes:
      text: the data that do not look like orders, normalised.
      strange: content words that occur only in texts that do.
      orders: how many texts look like orders.
    """

    text: str
    strange: frozenset[str]
    orders: int


def check_gate(cfg: GateConfig) -> None:
    """Raises `InputError` for settings that cannot work."""
    if cfg.language not in LANGUAGES:
        raise InputError(f"the gate's language is {cfg.language!r}, expected one of "
                         f"{', '.join(LANGUAGES)}")
    if not 0 < cfg.shortest <= cfg.longest:
        raise InputError(f"the gate takes {cfg.shortest} to {cfg.longest} characters, "
                         "expected more than 0, the shortest first")


def given(texts: Iterable[str]) -> Given:
    """Sorts a user's texts into what an answer may rest on and what may be an order."""
    good, odd = [_normal(text) for text in texts], []
    trusted = " \n ".join(good)
    if any(hint in trusted for hint in _HINTS):
        odd = [text for text in good if _is_order(text)]
        if odd:
            trusted = " \n ".join(text for text in good if not _is_order(text))
    strange = frozenset(word for word in _words(" ".join(odd))
                        if not _stands(word, trusted))
    return Given(trusted, strange, len(odd))


def judge(answer: str, data: Given, cfg: GateConfig,
          knowledge: Collection[str] = frozenset()) -> Verdict:
    """Decides about one answer.

    Args:
      answer: what the model said.
      data: of the user it speaks about.
      cfg: what is asked.
      knowledge: content words that an instruction may rest on as well, such as those
        of a knowledge base.
    """
    told = read_object(answer)
    if told is None:
        return Verdict(None, "not-json" if answer.strip() else "empty")
    text, evidence = told.get("instruction"), told.get("evidence", [])
    if not isinstance(text, str) or not isinstance(evidence, list) or not all(
            isinstance(one, str) for one in evidence):
        return Verdict(None, "schema")
    text = " ".join(without_hidden(text).split())
    if reason := (_form(text, cfg) or _safety(text, data, cfg, knowledge)
                  or _grounds(text, evidence, data, cfg, knowledge)):
        return Verdict(None, reason)
    return Verdict(text, "")


def content_words(text: str) -> frozenset[str]:
    """Returns the words that say something: no stop words, plurals as singulars.

    Scripts without spaces give pairs of neighbouring characters.
    """
    return _words(_normal(text))


def _is_order(text: str) -> bool:
    return any(hint in text for hint in _HINTS) and bool(_ORDER.search(text))


def _words(text: str) -> frozenset[str]:
    words = {_stem(word) for word in set(_WORD.findall(text)) - _COMMON
             if len(word) > 2 or not word.isascii()}
    if not text.isascii():
        for run in _HAN.findall(text):
            words.update(run[at:at + 2] for at in range(len(run) - 1))
    return frozenset(words)


def _stands(word: str, text: str) -> bool:
    """Whether a word of the text begins so; in scripts without spaces, any place."""
    at = text.find(word)
    while at > 0 and word.isascii() and text[at - 1].isalnum():
        at = text.find(word, at + 1)
    return at >= 0


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word


def _normal(text: str) -> str:
    if text.isascii():
        return text.casefold()
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_object(answer: str) -> dict | None:
    """Reads the JSON object in an answer; a fence or words around it are no reason to
    pay again. None where there is none, empty where it is another value."""
    for part in (answer, answer[answer.find("{"):answer.rfind("}") + 1]):
        try:
            told = json.loads(part, strict=False)
        except (ValueError, RecursionError):
            continue
        return told if isinstance(told, dict) else {}
    return None


def _form(text: str, cfg: GateConfig) -> str:
    if not text:
        return "empty"
    if len(text) < cfg.shortest:
        return "short"
    if len(text) > cfg.longest:
        return "long"
    return "" if _speaks(text, cfg) else "language"


def _speaks(text: str, cfg: GateConfig) -> bool:
    if cfg.language == "any":
        return True
    scripts = SCRIPTS[cfg.language]
    letters = [char for char in text if char.isalpha()]
    if text.isascii():
        fitting = len(letters) if "LATIN" in scripts else 0
    else:
        fitting = sum(_script(char) in scripts for char in letters)
    if not letters or fitting < cfg.script * len(letters):
        return False
    if cfg.language == "ja":  # Chinese has no kana
        return any(_script(char) in ("HIRAGANA", "KATAKANA") for char in letters)
    if cfg.language not in STOP_WORDS:
        return True
    words = set(_WORD.findall(text.casefold()))
    count = {language: len(words & stops) for language, stops in STOP_WORDS.items()}
    own = count.pop(cfg.language)
    return own >= max(count.values())


@functools.lru_cache(maxsize=4096)
def _script(char: str) -> str:
    return unicodedata.name(char, "?").split()[0]


def _safety(text: str, data: Given, cfg: GateConfig, knowledge: Collection[str]) -> str:
    text = _normal(text)
    if _URL.search(text):
        return "url"
    if _CONTACT.search(text):
        return "contact"
    if cfg.blocked and _blocked(cfg.blocked).search(text):
        return "blocked"
    if _is_order(text):
        return "injection"
    if data.strange:  # words that only a sentence with orders can have put there
        obeyed = [word for word in _words(text)
                  if word in data.strange and word not in knowledge]
        if len(obeyed) >= 2:
            return "injection"
    return ""


@functools.lru_cache(maxsize=64)
def _blocked(words: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(rf"(?<!\w){re.escape(_normal(word))}(?!\w)"
                               for word in words))


def _grounds(text: str, evidence: list[str], data: Given, cfg: GateConfig,
             knowledge: Collection[str]) -> str:
    if cfg.evidence and not any(
            quoted in data.text for one in evidence[:16]
            if len((quoted := _normal(one).strip(" .\"'")).encode()) > 2):
        return "ungrounded"
    words = content_words(text)
    shared = sum(word in knowledge or _stands(word, data.text) for word in words)
    return "" if shared >= cfg.shared else "ungrounded"
