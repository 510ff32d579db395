"""`localllm route` as a user types it."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.registry import Model, Registry
from localllm.registry.decisions import Decisions
from localllm.registry.routers import Routers
from localllm.route.contrast import Contrast
from localllm.route.pool.member import Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep
from localllm.route.pool.writing import as_toml
from tests.conftest import Done
from tests.route.known import known

Cli = Callable[..., Done]


def write(path: Path, contrast: Contrast, weak: str = "weak", strong: str = "strong") -> Path:
    rows = zip(contrast.prompts, contrast.weak, contrast.strong, contrast.domains,
               contrast.benchmarks, strict=True)  # fmt: skip
    lines = [
        {"prompt": p, f"{weak}_correct": float(w), f"{strong}_correct": float(s), "domain": d,
         "benchmark": b}
        for p, w, s, d, b in rows
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "known.jsonl", known(300))


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_gguf: Path) -> Path:
    """A home with a model `tiny` and a router `mine` that was trained on `data`."""
    from localllm.route.making import Wish, create, make_spec
    from localllm.route.teaching import read_material, teach
    from tests.serve.conftest import add

    folder = tmp_path_factory.mktemp("trained")
    registry = Registry(folder / "home")
    shutil.copyfile(tiny_gguf, folder / "staged.gguf")
    add(registry, "tiny", folder / "staged.gguf", architecture="llama")
    spec = make_spec(Wish(("small=tiny", "big=tiny"), costs=("big=10/30",)))
    kept = create(registry, "mine", spec)
    teach(registry, kept.current, spec, read_material([data], spec), files=["known.jsonl"])
    return folder / "home"


@pytest.fixture
def mine(trained_home: Path, home: Path) -> Registry:
    shutil.copytree(trained_home, home)
    return Registry(home)


def test_from_nothing_to_a_threshold(cli: Cli, tiny_model: Model, data: Path) -> None:
    made = cli("route", "create", "mine", "--member", "small=tiny", "--member", "big=tiny",
               "--cost", "big=10/30", "--json")  # fmt: skip
    assert made.exit_code == 0, made
    assert made.data["steps"] == ["predictor"] and not made.data["trained"]
    early = cli("route", "decide", "mine", "x")
    assert early.exit_code == 2 and "not trained" in early.err
    assert "localllm route train mine --data FILE" in early.err
    taught = cli("route", "train", "mine", "--data", data, "--json")
    assert taught.exit_code == 0, taught
    contrast = known(300)
    assert taught.data["n_prompts"] == 300
    assert taught.data["quality_weak"] == pytest.approx(contrast.weak.mean())
    assert taught.data["strong_share"] == pytest.approx(0.5, abs=0.02)
    set_ = cli("route", "calibrate", "mine", "--strong-share", "30%", "--json")
    expected = set_.data["expected"]
    share = expected["strong_share"]
    assert share["value"] == pytest.approx(0.3, abs=0.01)
    assert share["low"] < share["value"] < share["high"]
    # what goes to strong is right there by construction of the data; the rest as weak is
    assert expected["quality"]["value"] > contrast.weak.mean()
    assert cli("route", "list", "--json").data[0]["version"] == 3
    found = cli("route", "decide", "mine", "theorem proof lemma axiom", "--json").data
    assert found["member"] == "big"
    assert found["probability"] >= found["threshold"] == expected["threshold"]
    assert cli("route", "decide", "router/mine@1.0", "theorem proof", "--json").data["member"] == (
        "small"
    )


def test_calibrating_for_quality_and_budget(cli: Cli, mine: Registry) -> None:
    found = cli("route", "calibrate", "mine", "--quality", "95%", "--json").data["expected"]
    gap = found["quality_strong"] - found["quality_weak"]
    assert found["quality"]["value"] >= found["quality_weak"] + 0.95 * gap - 1e-9
    cheap = cli("route", "calibrate", "mine", "--budget", "0.002", "--json").data["expected"]
    assert cheap["cost"]["value"] <= 0.002
    assert cheap["strong_share"]["value"] < found["strong_share"]["value"]
    for wrong in (["--budget", "-1"], ["--quality", "30"], ["--strong-share", "x%"], [],
                  ["--quality", "1%", "--budget", "1"]):  # fmt: skip
        done = cli("route", "calibrate", "mine", *wrong)
        assert done.exit_code == 2, wrong
        assert len(done.err.strip().splitlines()) <= 2


def test_figures_are_on_prompts_that_did_not_train(
    cli: Cli, mine: Registry, data: Path, tmp_path: Path
) -> None:
    stored = cli("route", "eval", "mine", "--json").data
    assert (stored["on"], stored["n_prompts"]) == ("cross-validated", 300)
    figures = stored["groups"][0]
    assert figures["apgr"]["low"] > 0.5  # these prompts can be told apart
    assert figures["against"]["random"]["p_value"] < 0.05
    same = cli("route", "eval", "mine", "--data", data, "--json").data
    assert same["on"] == "cross-validated"  # all of them trained it
    assert same["groups"][0]["apgr"]["value"] == pytest.approx(figures["apgr"]["value"], abs=1e-6)
    fresh = known(360, seed=9)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(data.read_text() + write(tmp_path / "fresh.jsonl", fresh).read_text())
    held = cli("route", "eval", "mine", "--data", mixed, "--report", tmp_path / "r.html", "--json")
    assert held.exit_code == 0, held
    assert held.data["on"] == "held out"
    assert (held.data["n_prompts"], held.data["n_left_out"]) == (360, 300)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "APGR" in page and "quality by the share" in page
    drawn = cli("route", "eval", "mine")
    assert "APGR - length" in drawn.out and "share of strong calls" in drawn.out


def test_an_explanation_adds_up(cli: Cli, mine: Registry) -> None:
    prompt = "what is the premise of a theorem, and the best known proof?"
    found = cli("route", "explain", "mine", prompt, "--json").data
    score = found["score"]
    assert sum(part["amount"] for part in score["parts"]) == pytest.approx(score["score"])
    logit = score["slope"] * score["score"] + score["intercept"]
    assert found["probability"] == pytest.approx(1 / (1 + math.exp(-logit)))
    words = {w["text"]: w["amount"] for w in score["words"]}
    assert words["theorem"] > 0  # logic needs the strong one
    in_words = sum(part["amount"] for part in score["parts"] if part["what"] == "word")
    assert sum(w["amount"] for w in score["words"]) == pytest.approx(in_words)
    for word in score["words"]:
        assert prompt[word["start"] : word["end"]] == word["text"]
    assert len(found["neighbours"]) == 5
    nearest = [n["likeness"] for n in found["neighbours"]]
    assert nearest == sorted(nearest, reverse=True)
    shown = cli("route", "explain", "mine", prompt).out
    assert "theorem]" in shown and "Nearest known prompts" in shown


def test_a_router_goes_out_and_comes_back(cli: Cli, mine: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    assert cli("route", "export", "mine", path).exit_code == 0
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["predictor.npz", "router.toml", "tested.npz"]
    again = cli("route", "import", path, "--name", "copy", "--json")
    assert again.exit_code == 0 and again.data["trained"], again
    for prompt in ("theorem proof", "oven butter flour"):
        one, two = (cli("route", "decide", name, prompt, "--json").data["probability"]
                    for name in ("mine", "copy"))  # fmt: skip
        assert one == two
    assert cli("route", "explain", "copy", "theorem", "--json").data["neighbours"] == []
    assert cli("route", "import", path).exit_code == 2  # there is one of this name
    toml = tmp_path / "mine.toml"
    assert cli("route", "export", "mine", toml).exit_code == 0
    text = toml.read_text(encoding="utf-8").replace('model = "tiny"', 'model = "gone"', 1)
    toml.write_text(text, encoding="utf-8")
    lost = cli("route", "import", toml, "--name", "lost", "--json")
    assert lost.data["missing"] == {"small": lost.data["missing"]["small"]}
    assert "'gone'" in lost.json["warnings"][0]
    mended = cli("route", "import", toml, "--name", "ok", "--member", "small=tiny", "--json")
    assert mended.data["missing"] == {}


@pytest.mark.parametrize("damage", ["cut", "other file", "twice", "bomb", "pickle", "no toml",
                                    "names"])  # fmt: skip
def test_a_file_from_elsewhere_is_data(
    cli: Cli, mine: Registry, tmp_path: Path, damage: str
) -> None:
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    cli("route", "export", "mine", good)
    with zipfile.ZipFile(good) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if damage == "cut":
        bad.write_bytes(good.read_bytes()[:-200])
    else:
        if damage == "other file":
            parts["../../evil.py"] = b"print('gotcha')"
        elif damage == "bomb":
            parts["tested.npz"] = b"\0" * (300 << 20)
        elif damage == "pickle":
            held = tmp_path / "p.npz"
            np.savez(held, about=np.array([{"a": print}], dtype=object))
            parts["predictor.npz"] = held.read_bytes()
        elif damage == "no toml":
            del parts["router.toml"]
        elif damage == "names":
            parts["router.toml"] = parts["router.toml"].replace(b'"big"', b'"huge"')
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
            if damage == "twice":
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr("router.toml", b"")
    done = cli("route", "import", bad, "--name", "bad", "--json")
    assert done.exit_code in (2, 7), done
    assert "internal error" not in done.err
    assert [one.name for one in Routers(mine).list()] == ["mine"]
    assert not (tmp_path.parent / "evil.py").exists()


def test_bad_training_data(cli: Cli, mine: Registry, tmp_path: Path) -> None:
    ten = write(tmp_path / "ten.jsonl", known(10))
    assert "too few" in cli("route", "train", "mine", "--data", ten).err
    contrast = known(100)
    same = Contrast(contrast.prompts, np.zeros(100), np.zeros(100), contrast.domains,
                    contrast.benchmarks)  # fmt: skip
    one_class = cli("route", "train", "mine", "--data", write(tmp_path / "one.jsonl", same))
    assert one_class.exit_code == 2 and "nothing to learn" in one_class.err
    torn = write(tmp_path / "torn.jsonl", contrast)
    torn.write_text(torn.read_text() + '{"prompt": "x", "weak_corr')
    assert cli("route", "train", "mine", "--data", torn).exit_code == 7
    other = write(tmp_path / "other.jsonl", contrast, "llama", "gpt")
    assert cli("route", "train", "mine", "--data", other).exit_code == 0  # two: by who is better
    named = cli("route", "train", "mine", "--data", other, "--weak", "nobody")
    assert named.exit_code == 2 and "they have llama, gpt" in named.err
    assert cli("route", "train", "mine", "--data", tmp_path / "no.jsonl").exit_code == 3
    assert cli("route", "train", "mine").exit_code == 2
    assert cli("route", "train", "mine", "--data", other, "--predictor", "bert").exit_code == 2
    # labels that contradict each other are uncertainty
    double = Contrast(*(x * 2 for x in (contrast.prompts,)),
                      np.concatenate([contrast.weak, 1 - contrast.weak]), np.ones(200),
                      contrast.domains * 2, contrast.benchmarks * 2)  # fmt: skip
    done = cli("route", "train", "mine", "--data", write(tmp_path / "d.jsonl", double), "--json")
    assert done.exit_code == 2 and "nothing to learn" in done.json["error"]["message"]
    half = Contrast(
        (*contrast.prompts, *contrast.prompts[:20]),
        np.concatenate([contrast.weak, 1 - contrast.weak[:20]]), np.ones(120),
        (*contrast.domains, *contrast.domains[:20]),
        (*contrast.benchmarks, *contrast.benchmarks[:20]),
    )  # fmt: skip
    done = cli("route", "train", "mine", "--data", write(tmp_path / "h.jsonl", half), "--json")
    # the reader averages votes on one prompt, so 100 prompts are left
    assert done.exit_code == 0 and done.data["n_prompts"] == 100


def test_a_member_that_was_removed(cli: Cli, mine: Registry, tmp_path: Path) -> None:
    assert cli("rm", "tiny").exit_code == 0
    gone = cli("route", "ask", "mine", "hello")
    assert gone.exit_code == 3
    assert "member small" in gone.err and "fallback" in gone.err
    told = cli("route", "decide", "mine", "hello", "--json")
    assert told.exit_code == 0 and set(told.data["members_missing"]) == {"small", "big"}
    assert cli("route", "list", "--json").data[0]["problem"]


def test_an_endpoint_may_be_named_without_saying_that_it_is_one(
    cli: Cli, tiny_model: Model, registry: Registry
) -> None:
    add = ["endpoint", "add", "there", "--url", "http://127.0.0.1:9/v1", "--model", "m"]
    assert cli(*add, "--no-check").exit_code == 0
    made = cli("route", "create", "r", "--member", "a=tiny", "--member", "b=there",
               "--strategy", "length", "--json")  # fmt: skip
    assert made.exit_code == 0, made
    kinds = {
        one["name"]: one["kind"] for one in cli("route", "show", "r", "--json").data["members"]
    }
    assert kinds == {"a": "model", "b": "endpoint"}


@pytest.mark.parametrize("option", [
    ("--threshold", "0.5"), ("--description", "x"), ("--cost-unit", "money"), ("--fallback", "a"),
    ("--strategy", "always"), ("--member", "b=tiny"),
])  # fmt: skip
def test_nothing_is_given_beside_a_description(
    cli: Cli, tiny_model: Model, tmp_path: Path, option: tuple[str, str]
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        '[[members]]\nname = "a"\nmodel = "tiny"\n[[steps]]\nuse = "always"\nto = "a"\n'
    )
    done = cli("route", "create", "r", "--from", path, *option)
    assert done.exit_code == 2 and "--from says all of it" in done.err
    assert cli("route", "create", "r", "--from", path).exit_code == 0


def test_always_has_no_threshold(cli: Cli, tiny_model: Model) -> None:
    for strategy in ([], ["--strategy", "always"]):
        done = cli("route", "create", "r", "--member", "a=tiny", *strategy, "--threshold", "0.4")
        assert done.exit_code == 2 and "has no threshold" in done.err


def test_one_that_is_gone_is_passed_over_in_a_decision_too(
    cli: Cli, tiny_model: Model, registry: Registry
) -> None:
    members = (Member("gone", "model", "nothing"), Member("a", "model", "tiny"))
    for missing, member in (("fallback", "a"), ("refuse", "gone")):
        spec = RouterSpec(members, (AlwaysStep("gone"),), Fallback(("a",), missing))  # type: ignore[arg-type]
        Routers(registry).add(missing, as_toml(spec), made_by="create")
        found = cli("route", "decide", missing, "hello", "--json").data
        assert (found["chosen"], found["member"]) == ("gone", member)
        assert "may not see it" not in "".join(cli("route", "decide", missing, "hello").out)


def test_periods_are_parts_of_a_day_or_whole_days(cli: Cli, mine: Registry) -> None:
    for every, status in (("36h", 2), ("25h", 2), ("48h", 0), ("12h", 0), ("1w", 0)):
        assert cli("route", "report", "mine", "--every", every).exit_code == status, every


def test_a_router_that_cannot_be(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    empty = cli("route", "create", "r", "--json")
    assert empty.exit_code == 2 and "without members" in empty.json["error"]["message"]
    assert cli("route", "create", "r", "--member", "a=nothing").exit_code == 3
    assert cli("route", "create", "r", "--member", "a=endpoint:nobody").exit_code == 3
    assert cli("route", "create", "a/b", "--member", "a=tiny").exit_code == 2
    one = ["--member", "a=tiny", "--strategy", "predictor"]
    assert "only a" in cli("route", "create", "r", *one).err
    path = tmp_path / "r.toml"
    path.write_text('[[members]]\nname = "a"\nmodel = "tiny"\n[[steps]]\nuse = "rules"\n'
                    '[[steps.rules]]\nto = "a"\npattern = "("\n[[steps]]\nuse = "always"\n'
                    'to = "a"\n')  # fmt: skip
    done = cli("route", "create", "r", "--from", path)
    assert done.exit_code == 2 and "is no pattern" in done.err
    assert cli("route", "list", "--json").data == []


def test_removing_leaves_nothing_of_it(cli: Cli, mine: Registry) -> None:
    Decisions(mine).record("mine", 2, member="small", chosen="small", prompt="a private thing")
    assert cli("route", "rm", "mine").exit_code == 0
    assert not (mine.home / "routers" / "mine").exists()
    assert Decisions(mine).of("mine") == ()
    assert cli("route", "show", "mine").exit_code == 3


def test_asking_says_who_and_why(cli: Cli, mine: Registry) -> None:
    done = cli("route", "ask", "mine", "oven butter", "-n", "4", "--ctx", "256", "--temp", "0")
    assert done.exit_code == 0, done
    assert "small (tiny) answered: predictor: big is needed with" in done.err
    told = cli("route", "ask", "mine", "theorem proof lemma axiom", "-n", "4", "--ctx", "256",
               "--json")  # fmt: skip
    assert told.data["routing"]["member"] == "big"
    number = told.data["routing"]["decision"]
    assert cli("route", "feedback", number, "good").exit_code == 0
    assert cli("route", "feedback", number, "small").exit_code == 0  # thinks better of it
    assert [v.verdict for v in Decisions(mine).find(number).votes] == ["small"]
    assert cli("route", "feedback", number, "nonsense").exit_code == 2
    assert cli("route", "feedback", "9999", "good").exit_code == 3
    report = cli("route", "report", "mine", "--json").data
    assert report["total"]["members"] == {"small": 1, "big": 1}
    assert report["total"]["cost"] > 0


def test_versions_go_back(cli: Cli, mine: Registry) -> None:
    cli("route", "calibrate", "mine", "--strong-share", "10%")
    cli("route", "calibrate", "mine", "--strong-share", "90%")
    before = cli("route", "decide", "mine", "oven", "--json").data["threshold"]
    assert cli("route", "rollback", "mine", "--json").data == {
        "router": "mine", "before": 4, "version": 3
    }  # fmt: skip
    assert cli("route", "decide", "mine", "oven", "--json").data["threshold"] > before
    assert cli("route", "rollback", "mine", "--to", "9").exit_code == 3
    shown: Any = cli("route", "show", "mine", "--json").data
    assert [v["version"] for v in shown["versions"] if v["in_use"]] == [3]
