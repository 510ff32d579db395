"""Made-up prompts whose truth is known: the strong model is better in some fields only."""

from __future__ import annotations

import numpy as np

from localllm.route.contrast import Contrast

# How often only the strong model is right, by field
NEED = {"logic": 0.7, "history": 0.1, "cooking": 0.05}
_TEXTS = {
    "logic": "premise theorem implies predicate lemma quantifier axiom deduce proof valid",
    "history": "empire treaty dynasty revolution king century battle colony reform church",
    "cooking": "oven butter flour simmer garlic recipe onion pepper roast dough",
}
_WORDS = {domain: text.split() for domain, text in _TEXTS.items()}
_FILLER = "what is the best known of these and how does one tell it from another"
_COMMON = _FILLER.split()


def known(n: int = 300, seed: int = 0, benchmark: str = "made-up") -> Contrast:
    """`n` prompts spread over the fields; the weak model is right where strong is not needed."""
    random = np.random.default_rng(seed)
    prompts, needed, domains = [], [], []
    for i in range(n):
        domain = sorted(NEED)[i % len(NEED)]
        words = [*random.choice(_WORDS[domain], 5), *random.choice(_COMMON, 8)]
        random.shuffle(words)
        prompts.append(f"{' '.join(words)} number{i}?")
        needed.append(float(random.random() < NEED[domain]))
        domains.append(domain)
    weak = 1.0 - np.array(needed)
    return Contrast(tuple(prompts), weak, np.ones(n), tuple(domains), (benchmark,) * n)
