"""Keys and tokens that their vendors gave a form of its own.

The forms are the vendors' documentation's and agree with gitleaks' rules (MIT licence), which
are kept up by many hands. Written here because no Python package serves: detect-secrets has had
no release since May 2024, reads files line by line and starts plugins by the dozen. Each form
is looked for by a plain search for its prefix, and bounded in length or fenced by what may
stand before it, so that no input makes the search slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import occurrences
from localllm.privacy.plain import Plain

_END = r"(?![A-Za-z0-9_-])"
# vendor, the prefixes to search for, the whole form from its beginning
_VENDORS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("AWS access key", ("AKIA", "ASIA", "ABIA", "ACCA"), r"A[A-Z]{3}[A-Z2-7]{16}(?![A-Z0-9a-z])"),
    ("AWS Bedrock key", ("ABSKQmVkcm9ja",), r"ABSK[A-Za-z0-9+/]{100,200}={0,2}"),
    ("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
     rf"gh[pousr]_[A-Za-z0-9]{{36,255}}{_END}"),
    ("GitHub fine-grained token", ("github_pat_",), rf"github_pat_[A-Za-z0-9_]{{22,255}}{_END}"),
    ("GitLab token", ("glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-", "glft-", "glimt-",
                      "glagent-", "gloas-", "glffct-"),
     rf"gl[a-z]{{2,5}}-[A-Za-z0-9_.-]{{20,300}}{_END}"),
    ("Slack token",
     ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxo-", "xoxe-", "xoxe.", "xoxc-", "xoxd-"),
     r"xox[a-z](?:\.xox[bp])?-[A-Za-z0-9%-]{10,300}"),
    ("Slack app token", ("xapp-",), r"xapp-[0-9]-[A-Z0-9]{5,20}-[0-9]{5,20}-[a-z0-9]{20,100}"),
    ("Slack webhook", ("hooks.slack.com/",),
     r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,100}"),
    ("Stripe key", ("sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"),
     rf"(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9+/=]{{16,255}}{_END}"),
    ("Google API key", ("AIza",), rf"AIza[A-Za-z0-9_-]{{35}}{_END}"),
    ("Google OAuth secret", ("GOCSPX-",), rf"GOCSPX-[A-Za-z0-9_-]{{20,40}}{_END}"),
    ("Google OAuth token", ("ya29.",), r"ya29\.[A-Za-z0-9_.-]{20,512}"),
    ("Anthropic key", ("sk-ant-",), rf"sk-ant-[a-z]+[0-9]{{2}}-[A-Za-z0-9_-]{{20,200}}{_END}"),
    ("OpenAI key", ("sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"),
     rf"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{{20,250}}{_END}"),
    ("OpenRouter key", ("sk-or-v1-",), rf"sk-or-v1-[0-9a-f]{{64}}{_END}"),
    ("key that begins with sk-", ("sk-",), rf"sk-[A-Za-z0-9]{{32,64}}{_END}"),
    ("Hugging Face token", ("hf_", "api_org_"), rf"(?:hf|api_org)_[A-Za-z0-9]{{30,40}}{_END}"),
    ("npm token", ("npm_",), rf"npm_[A-Za-z0-9]{{36}}{_END}"),
    ("PyPI token", ("pypi-AgE",), r"pypi-AgE[A-Za-z0-9_-]{50,1000}"),
    ("Groq key", ("gsk_",), rf"gsk_[A-Za-z0-9]{{48,56}}{_END}"),
    ("xAI key", ("xai-",), rf"xai-[A-Za-z0-9]{{70,90}}{_END}"),
    ("Perplexity key", ("pplx-",), rf"pplx-[A-Za-z0-9]{{40,64}}{_END}"),
    ("Replicate token", ("r8_",), rf"r8_[A-Za-z0-9]{{37}}{_END}"),
    ("SendGrid key", ("SG.",), rf"SG\.[A-Za-z0-9_-]{{20,24}}\.[A-Za-z0-9_-]{{40,50}}{_END}"),
    ("Twilio key", ("SK",), rf"SK[0-9a-f]{{32}}{_END}"),
    ("DigitalOcean token", ("dop_v1_", "doo_v1_", "dor_v1_"), rf"do[opr]_v1_[0-9a-f]{{64}}{_END}"),
    ("Shopify token", ("shpat_", "shpca_", "shppa_", "shpss_"),
     rf"shp[a-z]{{2}}_[0-9A-Fa-f]{{32}}{_END}"),
    ("Databricks token", ("dapi",), rf"dapi[0-9a-f]{{32}}(?:-[0-9])?{_END}"),
    ("Docker token", ("dckr_pat_", "dckr_oat_"), rf"dckr_[po]at_[A-Za-z0-9_-]{{27,32}}{_END}"),
    ("HashiCorp Vault token", ("hvs.", "hvb."), r"hv[sb]\.[A-Za-z0-9_-]{24,300}"),
    ("Linear key", ("lin_api_",), rf"lin_api_[A-Za-z0-9]{{40}}{_END}"),
    ("Notion token", ("ntn_",), rf"ntn_[A-Za-z0-9]{{40,50}}{_END}"),
    ("Postman key", ("PMAK-",), rf"PMAK-[0-9a-f]{{24}}-[0-9a-f]{{34}}{_END}"),
    ("New Relic key", ("NRAK-",), rf"NRAK-[A-Z0-9]{{27}}{_END}"),
    ("Sentry token", ("sntrys_", "sntryu_"), r"sntry[su]_[A-Za-z0-9+/=_]{40,500}"),
    ("Grafana token", ("glsa_", "glc_"), r"gl(?:sa|c)_[A-Za-z0-9+/_=]{32,400}"),
    ("RubyGems key", ("rubygems_",), rf"rubygems_[0-9a-f]{{48}}{_END}"),
    ("Atlassian token", ("ATATT3", "ATCTT3"), r"AT[AC]TT3[A-Za-z0-9_=-]{150,250}"),
    ("age secret key", ("AGE-SECRET-KEY-1",), r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    ("Azure shared key", ("AccountKey=", "SharedAccessKey="),
     r"(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{40,90}={0,2}"),
)  # fmt: skip
_FORMS = tuple((vendor, prefixes, re.compile(form)) for vendor, prefixes, form in _VENDORS)
# prefixes that stand in the middle: what comes before is part of the key
_OLD_OPENAI = re.compile(rf"sk-[A-Za-z0-9]{{20}}T3BlbkFJ[A-Za-z0-9]{{20}}{_END}")
_TELEGRAM = re.compile(rf"[0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}{_END}")
_JWT = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){0,2}"
    r"|eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]{8,}+){4}"  # encrypted: five parts
)
_WORD = re.compile(r"[A-Za-z0-9_-]")
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END_KEY = re.compile(r"-----END [A-Z0-9 ]{0,50}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(r"(?:[A-Za-z0-9+/=:, .-]|\\n|\\r|[\r\n]){0,16384}+")


def tokens(plain: Plain) -> Iterator[Finding]:
    text = plain.text
    for vendor, prefixes, form in _FORMS:
        for prefix in prefixes:
            for at in occurrences(text, prefix):
                if at and text[at - 1].isascii() and text[at - 1].isalnum():
                    continue
                if found := form.match(text, at):
                    yield Finding(Kind.API_KEY, at, found.end(), 0.97, f"the form of a {vendor}")
    for marker, form, back in (("T3BlbkFJ", _OLD_OPENAI, 23), (":AA", _TELEGRAM, 10)):
        for at in occurrences(text, marker):
            if found := form.search(text, max(0, at - back), at + 60):
                yield Finding(Kind.API_KEY, *found.span(), 0.97, "the form of a vendor's key")


def web_tokens(plain: Plain) -> Iterator[Finding]:
    """JSON Web Tokens: two parts that are base64 of `{"` and the rest of RFC 7519."""
    text, done = plain.text, 0
    for at in occurrences(text, "eyJ"):
        # only from the beginning of a run: that keeps a run of many "eyJ" linear
        if at < done or (at and _WORD.match(text[at - 1])):
            continue
        if found := _JWT.match(text, at):
            done = found.end()
            yield Finding(Kind.JWT, at, found.end(), 0.97, "header and claims of a JSON Web Token")


def private_keys(plain: Plain) -> Iterator[Finding]:
    """PEM and OpenPGP blocks, whole, also where the end was cut off or newlines are `\\n`."""
    text, done = plain.text, 0
    closing = _END_KEY.search(text)
    for at in occurrences(text, "-----BEGIN "):
        if at < done or not (begin := _BEGIN.match(text, at)):
            continue
        while closing and closing.start() < begin.end():
            closing = _END_KEY.search(text, closing.end())
        body = _BODY.match(text, begin.end())
        done = body.end() if body else begin.end()
        if closing and text.find("-----BEGIN ", begin.end(), closing.start()) < 0:
            done = max(done, closing.end())
        yield Finding(Kind.PRIVATE_KEY, at, done, 0.99, "a private key block")
