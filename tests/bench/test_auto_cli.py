"""bench --auto from the command line: searched for real, kept, used, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.library.bench.conditions.machine import this_machine_record
from localllm.library.defaults import LoadDefaults, keep_defaults, load_defaults
from localllm.registry import Model, Registry
from tests.conftest import Done

Cli = Callable[..., Done]


def test_a_search_is_kept_only_where_it_won(
    cli: Cli, registry: Registry, tiny_model: Model
) -> None:
    done = cli("bench", "tiny", "--auto", "--budget", "6", "--json")
    assert done.exit_code == 0, done
    (tuned,) = done.data
    search = tuned["search"]
    names = [choice["name"] for choice in search["choices"]]
    assert {"flash attention", "micro-batch", "batch", "KV cache type"} <= set(names)
    here = this_machine_record().fingerprint
    kept = load_defaults(registry.resolve("tiny"), here)
    assert tuned["fingerprint"] == here
    assert tuned["kept"] == (kept is not None)
    if kept is not None:
        winner = search["winner"]
        assert kept.n_threads == winner["setup"]["n_threads"]
        assert kept.n_threads_batch == winner["n_threads_batch"]
        assert kept.tg_speedup == search["tg"]["speedup"]
    (measured,) = registry.measurements(tiny_model, "auto")
    assert measured.id == tuned["id"]


def test_no_auto_forgets(cli: Cli, registry: Registry, tiny_model: Model) -> None:
    here = this_machine_record().fingerprint
    found = LoadDefaults(1, 1, 512, 512, "auto", "f16", "f16", None, 0, 1.1, 1.1, 0.0)
    keep_defaults(registry, tiny_model, here, found)
    assert cli("bench", "tiny", "--no-auto", "--json").data == {"forgotten": ["org/tiny"]}
    assert load_defaults(registry.resolve("tiny"), here) is None


@pytest.mark.parametrize(
    "more", [("-p", "64"), ("-fa", "on"), ("--latency",), ("-o", "csv"), ("--until-stable", "2%")]
)
def test_auto_chooses_for_itself(cli: Cli, tiny_model: Model, more: tuple[str, ...]) -> None:
    assert cli("bench", "tiny", "--auto", *more).exit_code == 2


def test_a_file_outside_the_registry_is_searched_and_not_kept(cli: Cli, tiny_gguf: Path) -> None:
    done = cli("bench", tiny_gguf, "--auto", "--budget", "1", "--json")
    assert done.exit_code == 0, done
    assert [(t["kept"], t["id"]) for t in done.data] == [(False, None)]
    assert cli("bench", tiny_gguf, "--no-auto").exit_code == 2
