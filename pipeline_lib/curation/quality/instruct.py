"""Rules for prompts and answers: what is no answer, is cut off, repeats itself or breaks its markup.

A conversation is judged as a ``Talk`` of turns; a turn is an answer with the prompt before it.
First the rules about the whole talk are asked, then those about one turn, in the order of
``TALK_RULES`` and ``TURN_RULES``; a rule's name is the reason, its answer the evidence. What stands
in ``rejected``, or bears the label false, is meant to be bad and need only be there. Neighbours:
``ngrams`` counts repetition, ``limits`` has the thresholds, ``verdicts`` reads talks from a batch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pipeline_lib.curation.languages import language_of
from pipeline_lib.curation.quality.limits import InstructLimits, over, under
from pipeline_lib.curation.quality.ngrams import Variety

_VARIABLE = re.compile(r"\{\{\s*[A-Za-z_][\w .]*\}\}")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+[.)])\s+)?```+(?![^\n]*```)", re.MULTILINE)
_TAG = re.compile(
    r"<(/?)(a|b|i|em|strong|div|span|table|ul|ol|h[1-6]|script|style|html|body|head|form|button|select|svg)"
    r"\b[^<>]*>",
    re.I,
)
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(\w+\*?)\}")
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|user|assistant|system)\|>"
    r"|\[/?INST\]|</?s>"
)
_SPACES = re.compile(r"\s+")
_SENTENCE = re.compile(r"[^\W\d_]{2,}[.!?。！？]['\"”’)\]]*(?:\s|$)")
_UNFINISHED = re.compile(
    r"(?:,|\(|\[|[^\W\d_]\s-"
    r"|\b(?:a|an|the|and|or|of|as|their|its|your|our|my|such|into|between|because|including|than))\s*$"
)
_SIGNED = re.compile(r"(?:https?://\S+|[#@]\w+|\S+@\S+)$|(?:^|\n)[^\n]{0,40},$")
_LIST_LINE = re.compile(r"\s*(?:[-*•+>#|]|\d+[.)]|[A-Za-z][.)]\s|[\w ']{1,40}:)")


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer and the prompt before it."""

    prompt: str | None
    """None where no user has spoken yet."""
    answer: str
    calls: bool = False
    """Whether the answer calls a tool; then it need not say anything."""
    variety: Variety | None = None
    tools: bool = False
    """Whether the conversation offers tools."""
    tokens: int | None = None
    """The answer's length in tokens of the model's tokenizer, where it was counted."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation as the rules see it."""

    turns: list[Turn]
    """Answers that a model is to learn: those of the conversation, then the preferred one."""
    unwanted: list[Turn] = field(default_factory=list)
    """Answers that a model is to avoid."""
    equal_pair: bool = False
    tokens: int | None = None
    """The length of all that is said in tokens of the model's tokenizer, where it was counted."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The scores in the metadata that have a bound."""


TalkRule = Callable[[Talk, InstructLimits], str | None]
TurnRule = Callable[[Turn, InstructLimits], str | None]


def judge(talk: Talk, limits: InstructLimits) -> tuple[str, str] | None:
    """Return the first rule that fires, by name, with its evidence; None where the conversation is kept."""
    for talk_rule in TALK_RULES:
        detail = talk_rule(talk, limits)
        if detail is not None:
            return talk_rule.__name__, detail
    for turn_rule in TURN_RULES:
        for number, turn in enumerate(talk.turns, 1):
            detail = turn_rule(turn, limits)
            if detail is not None:
                return turn_rule.__name__, f"turn {number}: {detail}" if len(talk.turns) > 1 else detail
    return None


def equal_pair(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop a pair whose preferred and rejected answers are the same."""
    return "chosen and rejected are equal" if limits.equal_pair and talk.equal_pair else None


def empty_answer(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop an answer that says nothing and calls no tool."""
    if not limits.empty_answer:
        return None
    for number, turn in enumerate(talk.turns + talk.unwanted, 1):
        if not turn.calls and not turn.answer.strip():
            return f"answer {number} of {len(talk.turns) + len(talk.unwanted)} is empty"
    return None


def short_answer(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop a conversation whose answers together are too short."""
    if limits.min_answer_characters is None or not talk.turns or any(turn.calls for turn in talk.turns):
        return None
    length = sum(len(turn.answer.strip()) for turn in talk.turns)
    return under(length, limits.min_answer_characters, "characters")


def long_conversation(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop a conversation with more tokens than may be learnt at once."""
    return None if talk.tokens is None else over(talk.tokens, limits.max_conversation_tokens, "tokens")


def no_score(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop a conversation without a score that it is to be judged by."""
    return next((f"no number {name}" for name in limits.scores if name not in talk.scores), None)


def poor_score(talk: Talk, limits: InstructLimits) -> str | None:
    """Drop a conversation with a score out of its bounds."""
    found = (
        under(talk.scores[name], bounds.min, name) or over(talk.scores[name], bounds.max, name)
        for name, bounds in limits.scores.items()
        if name in talk.scores
    )
    return next(filter(None, found), None)


def placeholder(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer that stands for one never written, or holds an unfilled variable."""
    if not limits.placeholder:
        return None
    if turn.answer.strip().rstrip(".").casefold() in limits.placeholders:
        return repr(turn.answer.strip())
    if "{{" in turn.answer:
        variable = _VARIABLE.search(_prose(turn.answer))
        # In markup and program text a variable is the answer itself.
        if variable and "</" not in turn.answer and not _is_code(turn.answer):
            return repr(variable.group())
    wanted = turn.prompt is not None and "lorem ipsum" in turn.prompt.casefold()
    return "lorem ipsum" if not wanted and "lorem ipsum" in _prose(turn.answer).casefold() else None


def refusal(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer that declines, or speaks of itself as a chatbot."""
    # Where tools are offered, to say that none fits is the right answer.
    if not limits.refusal or turn.tools:
        return None
    folded = turn.answer.casefold().replace("’", "'")
    return next((repr(phrase) for phrase in limits.refusal_phrases if phrase in folded), None)


def echo(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer that is its prompt again."""
    if not limits.echo or turn.prompt is None:
        return None
    answer, prompt = _folded(turn.answer), _folded(turn.prompt)
    if len(answer) < limits.echo_from_characters:
        return None
    return "repeats the prompt" if answer == prompt else None


def short_prompt(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop a prompt too short to be a request."""
    return (
        None
        if turn.prompt is None
        else under(len(turn.prompt.strip()), limits.min_prompt_characters, "characters")
    )


def long_prompt(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop a prompt too long to be a request."""
    return None if turn.prompt is None else over(len(turn.prompt), limits.max_prompt_characters, "characters")


def long_answer(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer that is too long."""
    return over(len(turn.answer), limits.max_answer_characters, "characters")


def few_answer_tokens(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer with too few tokens; a call for a tool is no short answer."""
    counted = turn.tokens is not None and not turn.calls
    return under(turn.tokens or 0, limits.min_answer_tokens, "tokens") if counted else None


def many_answer_tokens(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer with too many tokens."""
    return None if turn.tokens is None else over(turn.tokens, limits.max_answer_tokens, "tokens")


def answer_prompt_ratio(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer too short or too long for its prompt."""
    if not turn.prompt:
        return None
    ratio = len(turn.answer) / len(turn.prompt)
    return under(ratio, limits.min_answer_prompt_ratio, "ratio") or over(
        ratio, limits.max_answer_prompt_ratio, "ratio"
    )


def cut_off(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer in sentences whose last one stops in the middle."""
    text = turn.answer.rstrip()
    if not limits.cut_off or turn.calls or len(text) < limits.cut_off_from_characters or not _ends_open(text):
        return None
    if _CODE.search(text) or _is_code(text) or _SIGNED.search(text):
        return None
    if _UNFINISHED.search(text):
        return f"ends with {text[-30:]!r}"
    last = text.rsplit("\n", 1)[-1]
    finished = len(_SENTENCE.findall(text))
    prose = (
        finished >= limits.cut_off_from_sentences and len(last.split()) >= 3 and not _LIST_LINE.match(last)
    )
    return f"ends with {text[-30:]!r} after {finished} whole sentences" if prose else None


def repetition(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer that says the same words over and over."""
    variety = turn.variety
    if variety is None or variety.words < limits.repetition_from_words:
        return None
    return under(variety.distinct_trigrams, limits.min_distinct_trigrams, "distinct trigrams") or over(
        variety.top_word, limits.max_word_share, "most frequent word"
    )


def broken_fence(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer with a code fence that is opened and not closed."""
    if not limits.broken_fence or "```" not in turn.answer:
        return None
    fences = len(_FENCE.findall(turn.answer))
    return f"{fences} fences" if fences % 2 else None


def broken_markup(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer with a tag or environment left open, or with a chat template's marks."""
    if not limits.broken_markup or (
        "<" not in turn.answer and "\\" not in turn.answer and "[" not in turn.answer
    ):
        return None
    control = _CONTROL.search(turn.answer)
    if control:
        return f"control mark {control.group()}"
    prose = _prose(turn.answer)
    open_tags = Counter[str]()
    # Without any closing tag the text is about markup rather than in it.
    for closing, name in _TAG.findall(prose) if "</" in prose else ():
        open_tags[f"<{name.lower()}>"] += -1 if closing else 1
    for kind, name in _ENVIRONMENT.findall(prose):
        open_tags[f"\\begin{{{name}}}"] += 1 if kind == "begin" else -1
    unclosed = sorted(name for name, count in open_tags.items() if count > 0)
    return f"unclosed {' '.join(unclosed)}" if unclosed else None


def language_mismatch(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer in another language than its prompt."""
    if not limits.language_mismatch or turn.prompt is None:
        return None
    languages = [language_of(text, limits.language_from_letters) for text in (turn.prompt, turn.answer)]
    return (
        f"{languages[0]} -> {languages[1]}"
        if None not in languages and languages[0] != languages[1]
        else None
    )


def other_language(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop an answer in none of the languages asked for."""
    if not limits.languages:
        return None
    language = language_of(turn.answer, limits.language_from_letters)
    return None if language is None or language in limits.languages else language


def toxic_words(turn: Turn, limits: InstructLimits) -> str | None:
    """Drop a prompt or an answer that holds a listed word."""
    if not limits.toxic_words:
        return None
    found = _word_pattern(limits.toxic_words).search(f"{turn.prompt or ''}\n{turn.answer}")
    return repr(found.group()) if found else None


def _folded(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" .?!:\"'").casefold()


def _prose(text: str) -> str:
    return _CODE.sub(" ", text) if "`" in text else text


def _ends_open(text: str) -> bool:
    return text[-1].isalnum() or text[-1] in ",-(["


def _is_code(text: str) -> bool:
    """Return whether marks of program text are on a fifth of the lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    marked = sum(
        line[:2] == "  " or line[0] == "\t" or line.rstrip()[-1] in ";{}()=" or line.lstrip()[0] in "<#}"
        for line in lines
    )
    return marked * 5 >= len(lines)


@lru_cache(maxsize=8)
def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.I)


TALK_RULES: tuple[TalkRule, ...] = (
    equal_pair,
    empty_answer,
    short_answer,
    long_conversation,
    no_score,
    poor_score,
)
TURN_RULES: tuple[TurnRule, ...] = (
    placeholder,
    refusal,
    echo,
    short_prompt,
    long_prompt,
    long_answer,
    few_answer_tokens,
    many_answer_tokens,
    answer_prompt_ratio,
    cut_off,
    repetition,
    broken_fence,
    broken_markup,
    language_mismatch,
    other_language,
    toxic_words,
)
