"""Keys, tokens and passwords of nobody, in the forms that their vendors' pages show."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from random import Random

from tests.privacy.values import BASE62, BASE64URL, DIGITS, HEX, LOWER, UPPER, some


def api_key(r: Random) -> tuple[str, str]:
    """Vendor and key, as the vendors' pages show them."""
    makers = {
        "AWS": lambda: r.choice(["AKIA", "ASIA"]) + some(r, UPPER + "234567", 16),
        "GitHub": lambda: r.choice(["ghp_", "gho_", "ghs_"]) + some(r, BASE62, 36),
        "GitHub fine-grained": lambda: (
            "github_pat_" + some(r, BASE62, 22) + "_" + some(r, BASE62, 59)
        ),
        "GitLab": lambda: "glpat-" + some(r, BASE64URL, 20),
        "Slack": lambda: f"xoxb-{some(r, DIGITS, 12)}-{some(r, DIGITS, 12)}-{some(r, BASE62, 24)}",
        "Stripe": lambda: r.choice(["sk_live_", "rk_live_"]) + some(r, BASE62, r.choice([24, 99])),
        "Google": lambda: "AIza" + some(r, BASE64URL, 35),
        "OpenAI": lambda: "sk-proj-" + some(r, BASE64URL, 74) + "T3BlbkFJ" + some(r, BASE64URL, 74),
        "OpenAI old": lambda: "sk-" + some(r, BASE62, 20) + "T3BlbkFJ" + some(r, BASE62, 20),
        "Anthropic": lambda: "sk-ant-api03-" + some(r, BASE64URL, 93) + "AA",
        "Hugging Face": lambda: "hf_" + some(r, UPPER + LOWER, 34),
        "npm": lambda: "npm_" + some(r, BASE62, 36),
        "PyPI": lambda: "pypi-AgEIcHlwaS5vcmc" + some(r, BASE64URL, 140),
        "SendGrid": lambda: f"SG.{some(r, BASE64URL, 22)}.{some(r, BASE64URL, 43)}",
        "Telegram": lambda: f"{some(r, '123456789', 10)}:AA{some(r, BASE64URL, 33)}",
    }
    vendor = r.choice(sorted(makers))
    return vendor, makers[vendor]()


def jwt(r: Random) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = part(json.dumps({"alg": r.choice(["HS256", "RS256"]), "typ": "JWT"}).encode())
    claims = part(
        json.dumps(
            {"sub": some(r, DIGITS, 8), "iat": r.randint(1_600_000_000, 1_800_000_000)}
        ).encode()
    )
    signed = f"{header}.{claims}"
    signature = hmac.new(some(r, BASE62, 9).encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{part(signature)}"


def private_key(r: Random) -> str:
    name = r.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY",
                     "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])  # fmt: skip
    body = base64.b64encode(r.randbytes(r.choice([48, 120, 600]))).decode()
    newline = "\n" if r.random() < 0.8 else "\\n"
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return newline.join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----"])


def password(r: Random) -> str:
    word = r.choice(["sakura", "Dragon", "monkey", "Tokyo", "liverpool", "Summer", "correct"])
    return r.choice([
        f"{word}{r.randint(1, 9999)}", f"{word}{r.randint(10, 99)}!",
        some(r, BASE62 + "!#%^*-_+", 12) + "7",
        f"{word}-{some(r, LOWER, 6)}-{r.randint(1, 99)}",
        f"P@ss{some(r, BASE62, 5)}{r.randint(0, 9)}",
    ])  # fmt: skip


def secret(r: Random) -> str:
    return r.choice([
        some(r, HEX, 32), some(r, HEX, 64), some(r, BASE62, 40),
        base64.b64encode(r.randbytes(32)).decode(),
        some(r, BASE64URL, 43),
    ])  # fmt: skip
