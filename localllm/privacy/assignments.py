"""Passwords and secrets that only their name gives away: `password: ...`, API_KEY=...

The name is looked for, then the value after it is judged: a password may be short but must not
be code, a placeholder or a sentence; an unnamed format (SECRET) must also look random.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import log2

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import occurrences
from localllm.privacy.plain import Plain

_PASSWORD_NAMES = (
    "password", "passwd", "passphrase", "passcode", "pwd", "pass",
    "パスワード", "暗証番号", "パスフレーズ", "パスコード", "パス:", "pw",
)  # fmt: skip
_SECRET_NAMES = (
    "secret", "token", "api_key", "apikey", "api-key", "api key", "access_key", "accesskey",
    "access key", "private_key", "auth_key", "authkey", "credential", "encryption_key",
    "signing_key", "account_key", "license_key", "webhook_key", "master_key", "auth\"",
    "key", "キー",
    "apiキー", "シークレット", "トークン", "秘密鍵", "アクセスキー",
)  # fmt: skip
# what may stand between the name and its value: the rest of the name, a quote, a type, a sign
_ASSIGNED = re.compile(
    r"(?:[a-z0-9_\-]{0,24}|キー|番号)[\"'`\]]{0,2}(?:\s?:\s?(?:str|string))?\s{0,4}"
    r"(?:(?:=>|:=|==|=|:|→|>)\s{0,4}|\s(?:is|was|are)\s?:?\s{0,2}|[はが]、?\s?|\s(?=[\"'])"
    r"|\s?\(?(?=「)|\(\s?(?=[\"'])|(?P<space>\s))"
    r"(?:(?P<quote>[\"'`「『])|(?P<bare>(?=\S)))"
)
# "tokens", "tokenizer", "secretary", "password_hash": named like a secret, but none
_OTHER_NAMES = re.compile(
    r"(?:s?_?(?:type|count|limit|length|len|size|url|uri|path|file|field|name|id|ids|expir\w*|ttl"
    r"|policy|hash(?:er)?|reset|hint|strength|version|input|label|regex|pattern|manager|provider"
    r"|endpoint|budget|usage|per|rate|index|required|min|max)(?![a-z])|s(?![a-z])"
    r"|i[sz]\w+|ari\w+|omics|less)",
)
_QUOTES = {"「": "」", "『": "』"}
_BARE_VALUE = re.compile(r"[^\s,;\"'`<>|\x7f-\U0010ffff]{1,256}")
_NEXT_IN_QUERY = re.compile(r"&[A-Za-z_.]{1,40}=")
# what documentation and code put where a secret would be
_PLACEHOLDER = re.compile(
    r"(?:\W*(?:your|my|the|some|example|sample|dummy|fake|test(?:ing)?|change|insert|enter|put|todo|redacted"
    r"|xxx|placeholder|password|passwd|secret|token|none|null|nil|true|false|undefined|required"
    r"|optional|string|str|bytes|hidden|masked|value|empty|default|foo|bar)[\W_a-z]*"
    r"|[*x•.\-_#?●■]+|\W*|%[a-z_]+%|%s|![a-z]+|<.*>?|\{.*\}|\[.*\]|@[a-z_]+@?|&[a-z]+;?"
    r"|\$\{.*|\$\(.*|\$(?-i:[A-Z_][A-Z0-9_]*|[a-z_]+))\Z",
    re.I,
)
_CODE = re.compile(
    r"(?:os|self|this|process|env|config|settings|args|request|req|params|options|opts|secrets|vars"
    r"|var|data|local|user|getpass|input|await|new|f|r|b)(?:\.|\[|\(|\").*|[A-Za-z_][A-Za-z_.]{2,}\(.*"
    r"|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+[)\]}]*|(?:https?|file)://.*|[./~][\w./\-]*",
    re.S,
)
_NAME = re.compile(r"[A-Za-z_]+[)\]}]*")  # of a variable
_RANDOM = re.compile(r"[A-Za-z0-9+/=_.~\-]{16,256}")
_BEARER = re.compile(
    r"(?:authorization[\"']?\s?[:=]\s?[\"']?\s?|-h\s?[\"']?)?(?P<how>bearer|basic|token)\s{1,3}"
    r"(?P<value>[a-z0-9+/=_.~\-]{16,2048})(?![a-z0-9])"
)
_CONNECTION = re.compile(
    r"://(?P<user>[^\s:/@\"'<>]{0,64}):(?P<password>[^\s/\"'<>]{1,128})@(?=[^\s@/]{1,255})"
)
_CURL_USER = re.compile(
    r"curl [^\n]{0,80}?(?:-u|--user)[ =][\"']?[^\s:\"']{1,64}:(?P<value>[^\s\"']{3,128})"
)
# what command lines take passwords by
_COMMANDS = re.compile(
    r"(?:sshpass -p ?|(?:mysql|mysqldump|mysqladmin|mariadb) [^\n]{0,60}?-p)[\"']?"
    r"(?P<value>[^\s\"']{4,128})"
)
_PIN = re.compile("[0-9]{4,8}")


def assignments(plain: Plain) -> Iterator[Finding]:
    for name in _PASSWORD_NAMES:
        yield from _assigned(plain, name, Kind.PASSWORD)
    for name in _SECRET_NAMES:
        yield from _assigned(plain, name, Kind.SECRET)


def headers(plain: Plain) -> Iterator[Finding]:
    """`Authorization: Bearer ...`."""
    for word in ("bearer ", "basic ", "authorization: token "):
        for at in occurrences(plain.lower, word):
            found = _BEARER.search(plain.lower, max(0, at), at + len(word) + 2100)
            if found is None or found.start() > at + 16:
                continue
            start, end = found.span("value")
            if _looks_random(plain.text[start:end]):
                yield Finding(Kind.SECRET, start, end, 0.9, f"the credential after {found['how']}")


def commands(plain: Plain) -> Iterator[Finding]:
    """`curl -u user:password`, `sshpass -p ...`, `mysql -p...`."""
    for word, form in (
        ("curl ", _CURL_USER), ("sshpass ", _COMMANDS), ("mysql", _COMMANDS),
        ("mariadb ", _COMMANDS)
    ):  # fmt: skip
        for at in occurrences(plain.lower, word):
            found = form.match(plain.lower, at)
            if found and not _PLACEHOLDER.match(found["value"]):
                why = f"the password that {word.strip()} takes"
                yield Finding(Kind.PASSWORD, *found.span("value"), 0.9, why)


def connections(plain: Plain) -> Iterator[Finding]:
    """The password in scheme://user:password@host; user and host stay readable."""
    for at in occurrences(plain.text, "://"):
        found = _CONNECTION.match(plain.text, at)
        if found is None:
            continue
        password = found["password"]
        if len(password) > 8 and _PLACEHOLDER.match(password):
            continue
        if re.fullmatch(r"[<{$%\[].*|[*x]+", password):
            continue
        why = "the password in a URL"
        yield Finding(Kind.CONNECTION_STRING, *found.span("password"), 0.95, why)


def _assigned(plain: Plain, name: str, kind: Kind) -> Iterator[Finding]:
    text, lower = plain.text, plain.lower
    for at in occurrences(lower, name):
        after = at + len(name.rstrip(':="'))
        if _OTHER_NAMES.match(lower, after) or _is_inside_word(lower, at, name):
            continue
        sign = _ASSIGNED.match(lower, after)
        if sign is None:
            continue
        start, end = _value(text, sign)
        if kind is Kind.SECRET:
            end -= len(text[start:end]) - len(text[start:end].rstrip(")]}"))
        flag = lower[max(0, at - 2) : at] == "--"  # --password X
        if sign.group().endswith(">") and text[end : end + 2] != "</":
            continue
        if name in ("pass", "key", "キー") and not set("=:") & set(sign.group()):
            continue  # the pass is 2000m high
        if sign["space"] and kind is Kind.PASSWORD and not flag and _classes(text[start:end]) < 3:
            continue
        if confidence := _judged(text[start:end], kind, sign):
            why = f'a value after "{name.rstrip(":=")}"'
            yield Finding(kind, start, end, confidence, why)


def _is_inside_word(lower: str, at: int, name: str) -> bool:
    """`compass=`, `bypass:`; a name in camel case or after _ goes on."""
    before, after = lower[at - 1 : at], lower[at + len(name) : at + len(name) + 1]
    if name == "key":
        return bool(re.match("[a-z0-9_-]", before + after))
    if name in ("pw", "pass"):
        return (before.isascii() and before.isalnum()) or (after.isascii() and after.isalnum())
    return False


def _value(text: str, sign: re.Match[str]) -> tuple[int, int]:
    start = sign.end()
    if quote := sign["quote"]:
        end = _closing(text, _QUOTES.get(quote, quote), start)
        if end >= 0 and "\n" not in text[start:end]:
            return start, end
    found = _BARE_VALUE.match(text, start)
    if found is None:
        return start, start
    value = found.group()
    query = _NEXT_IN_QUERY.search(value)
    # a closing bracket may be of the code around it: a mask that covers it does no harm
    return start, start + len(value[: query.start() if query else None].rstrip(".:"))


def _closing(text: str, quote: str, start: int) -> int:
    """Where the quote ends, one with a backslash is of the value; -1 where it does not."""
    first = end = text.find(quote, start, start + 300)
    while end >= 0:
        before = text[start:end]
        if (len(before) - len(before.rstrip("\\"))) % 2 == 0:
            return end
        end = text.find(quote, end + 1, start + 300)
    return first


def _judged(value: str, kind: Kind, sign: re.Match[str]) -> float:
    """How much `value` is a secret of somebody; 0 where it is none."""
    if _PLACEHOLDER.match(value) or value.strip("()[]{}").isalpha() != value.isalpha():
        return 0.0
    if kind is Kind.SECRET:
        return 0.8 if _looks_random(value) else 0.0
    if not value.isascii():
        return 0.0
    if not sign["quote"] and (_CODE.fullmatch(value) or _NAME.fullmatch(value)):
        return 0.0
    prose = "=" not in sign.group() and ":" not in sign.group() and not sign["quote"]
    classes = _classes(value)
    if _PIN.fullmatch(value):
        return 0.7
    if len(value) < 4 or (" " in value and classes < 3):
        return 0.0
    if classes >= 2 and any(c.isdigit() or not c.isalnum() for c in value):
        return 0.85 if not value[-1:].isspace() else 0.0
    return 0.0 if prose or classes < 1 else 0.6 if sign["quote"] and len(value) >= 6 else 0.0


def _classes(value: str) -> int:
    """How many of small letters, capitals, digits and other characters it has."""
    tests = (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    return sum(any(test(c) for c in value) for test in tests)


def _looks_random(value: str) -> bool:
    """Letters and digits mixed, 16 or more, of three bits a character at least.

    Random hexadecimal of 32 characters has about 3.5 bits, base64 of 40 about 4.7, a
    dotted name of code below 3.5 and hardly ever digits: thresholds as in detect-secrets
    and gitleaks (3.0 and 3.5)."""
    if not _RANDOM.fullmatch(value) or _CODE.fullmatch(value):
        return False
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    hexadecimal = re.fullmatch("[0-9a-fA-F-]+", value) is not None
    return entropy_bits(value) >= (2.9 if hexadecimal else 3.3)


def entropy_bits(text: str) -> float:
    """Shannon's entropy of the characters, in bits a character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * log2(n / len(text)) for n in counts)
