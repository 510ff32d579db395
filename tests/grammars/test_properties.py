"""Random schemas: what the grammar writes is valid, and what is valid may be written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.engine.model import Model
from localllm.grammars import json_schema_grammar
from tests.support.grammar_walk import GrammarWalk
from tests.support.schemas import Case, cases, spellings

SLOW = settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Model]:
    with Model.load(tiny_gguf) as loaded:
        yield loaded


def validate(value: Any, schema: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)


@SLOW
@given(case=cases())
def test_valid_values_may_be_written(model: Model, case: Case) -> None:
    text = json_schema_grammar(case.schema)
    for value in case.values:
        validate(value, case.schema)
        for spelling in spellings(value):
            with GrammarWalk(model, text) as walk:
                at = walk.refused_at(spelling)
                assert at is None, (spelling, at, case.schema, text)


@SLOW
@given(case=cases(), seed=st.integers(0, 2**32))
def test_what_is_written_is_valid(model: Model, case: Case, seed: int) -> None:
    text = json_schema_grammar(case.schema)
    with GrammarWalk(model, text) as walk:
        written = walk.write(random.Random(seed))
    if written is not None:
        validate(json.loads(written), case.schema)
