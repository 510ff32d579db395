"""python benchmarks/privacy.py [--json FILE] [--faker]

Prints what the privacy guard finds and misses, and how fast it is:
- recall and precision by kind on the three synthetic sets of tests/privacy, with Wilson's 95 %
  intervals: the set that the detectors were made with, and two that were written after them;
- how often texts of each family of hard negatives fire;
- findings in ordinary text and code without personal data, and megabytes a second;
- with --faker (`pip install faker`), recall on values that Faker makes: a peer that knows
  nothing of the detectors, and does not always follow the numbering plans.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from localllm.privacy import Kind, find  # noqa: E402 - the path must be set first
from localllm.texts import calibration, evaluation  # noqa: E402
from tests.privacy import corpus, templates  # noqa: E402
from tests.privacy.scoring import Share, score  # noqa: E402

FAKER_KINDS = {
    "email": "email", "phone": "phone_number", "card": "credit_card_number", "iban": "iban",
    "address": "address", "ip": "ipv4_public", "ssn": "ssn", "password": "password",
}  # fmt: skip
FAKER_LOCALES = {"en": ("en_US", "en_GB", "en_AU", "en_CA"), "ja": ("ja_JP",)}


def shown(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:6.1%} ({low:.1%} to {high:.1%})"


def synthetic(name: str, samples: list[corpus.Sample]) -> list[dict[str, Any]]:
    """Prints and returns a row for each kind of the set."""
    print(f"\n{name}: {len(samples)} texts")
    print(f"{'kind':18} {'n':>5}  {'recall':25} {'covered by any kind':25} precision")
    rows = []
    for kind, found in score(samples)[0].items():
        shares = (found.recall, found.covered, found.precision)
        print(f"{kind:18} {found.recall.total:5}  " + " ".join(f"{shown(s):25}" for s in shares))
        rows.append({"kind": kind.value, "n": found.recall.total} | {
            label: {"value": share.value, "interval": share.interval}
            for label, share in zip(("recall", "covered", "precision"), shares, strict=True)
        })  # fmt: skip
    return rows


def families(samples: list[corpus.Sample]) -> dict[str, float]:
    """The share of texts that fire, by family; prints those that ever do."""
    texts = Counter(sample.family for sample in samples)
    fired = Counter(sample.family for sample in samples if find(sample.text))
    quiet = sum(not fired[family] for family in texts)
    print(f"\nhard negatives: {quiet} of {len(texts)} families never fire")
    for family, count in fired.most_common():
        print(f"  {family:22} {shown(Share(count, texts[family]))}")
    return {family: fired[family] / count for family, count in texts.items()}


def ordinary() -> dict[str, dict[str, float]]:
    """Findings and speed on text that nobody made for this."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "localllm").rglob("*.py"))
    texts = {
        "prose and code in 30 languages": calibration().content,
        "other prose and code": evaluation().content,
        "this program's source": code,
    }
    print(f"\n{'text':32} {'MB':>6} {'findings':>9} {'MB/s':>6}")
    rows = {}
    for name, text in texts.items():
        size = len(text.encode()) / 1e6
        began = time.perf_counter()
        findings = find(text)
        seconds = time.perf_counter() - began
        print(f"{name:32} {size:6.2f} {len(findings):9} {size / seconds:6.2f}")
        rows[name] = {"bytes": size * 1e6, "findings": len(findings), "seconds": seconds}
    return rows


def from_faker(each: int = 200) -> dict[str, float]:
    """Recall on Faker's values in the templates of the first set."""
    print(f"\n{'Faker':18} {'locale':7} recall")
    rows = {}
    for kind, locale, texts in faker_texts(each):
        covered = sum(
            any(f.start <= start and end <= f.end for f in find(text)) for text, start, end in texts
        )
        share = Share(covered, len(texts))
        print(f"{kind:18} {locale:7} {shown(share)}")
        rows[f"{kind} {locale}"] = share.value
    return rows


def faker_texts(each: int) -> Iterator[tuple[str, str, list[tuple[str, int, int]]]]:
    """Kind, locale, and texts with where in them the value stands."""
    from faker import Faker

    r = Random(corpus.SEED)
    for language, locales in FAKER_LOCALES.items():
        words = {"en": templates.EN, "ja": templates.JA}[language]
        for locale in locales:
            fake = Faker(locale)
            fake.seed_instance(corpus.SEED)
            for kind, maker in FAKER_KINDS.items():
                if kind == "ssn" and locale != "en_US":
                    continue
                texts = []
                for _ in range(each):
                    value = str(getattr(fake, maker)())
                    before, after = r.choice(words[kind]).format("\0").split("\0")
                    texts.append((before + value + after, len(before), len(before + value)))
                yield kind, locale, texts


def main() -> None:
    parser = argparse.ArgumentParser(description="what the privacy guard finds, and how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--faker", action="store_true", help="also score values made by Faker")
    options = parser.parse_args()
    find(" ".join(["03-3123-4567", "GB82WEST12345698765432", *Kind]))  # what is imported once
    first, first_negatives = corpus.positives(), corpus.negatives()
    held, held_negatives = corpus.held_out_positives(), corpus.held_out_negatives()
    fresh, fresh_negatives = corpus.fresh_positives(), corpus.fresh_negatives()
    figures: dict[str, Any] = {
        "first set": synthetic("first set", first + first_negatives),
        "held-out set": synthetic("held-out set", held + held_negatives),
        "fresh set": synthetic("fresh set", fresh + fresh_negatives),
        "families": families(first_negatives + held_negatives + fresh_negatives),
        "ordinary": ordinary(),
    }
    if options.faker:
        figures["faker"] = from_faker()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
