"""Loading: options, progress, and one clear line for every refusal."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.errors import DamagedFile, EngineError, FileGone, UsageProblem
from tests.support.gguf_writer import Val
from tests.support.tiny_models import llama_model, split, tiny_llama


def _elsewhere(path: Path) -> None:
    """Load on another thread; its exception is raised here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Model.load, path).result()


def test_info_is_what_the_file_was_written_with(llama: Model) -> None:
    info = llama.info
    assert (info.architecture, info.name) == ("llama", "tiny-llama")
    assert (info.n_layer, info.n_embd, info.n_embd_out) == (2, 256, 256)
    assert (info.n_head, info.n_head_kv, info.n_ctx_train) == (4, 2, 2048)
    assert (info.n_swa, info.is_recurrent, info.has_encoder) == (0, False, False)
    assert info.n_vocab == llama.tokenizer.n_vocab
    matrices = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512) + 2 * 256 * info.n_vocab
    vectors = 256 * 5
    assert info.n_params == matrices + vectors
    assert info.size_bytes == 2 * matrices + 4 * vectors
    assert llama.load_s > 0


def test_kinds_of_model(gemma: Model, mamba: Model) -> None:
    assert gemma.info.n_swa == 64
    assert mamba.info.is_recurrent


def test_metadata_has_scalars_and_strings_of_any_length(llama: Model) -> None:
    metadata = llama.metadata()
    assert metadata["llama.block_count"] == "2"
    assert metadata["tokenizer.chat_template"] == llama.meta("tokenizer.chat_template")
    assert len(metadata["tokenizer.chat_template"]) > 256 or "im_start" in str(metadata)
    assert llama.meta("no.such.key") is None
    assert list(metadata) == sorted(metadata)


def test_progress_adds_up_to_the_file(llama_path: Path) -> None:
    steps: list[int] = []
    with Model.load(llama_path, advance=steps.append):
        assert sum(steps) == llama_path.stat().st_size
        assert all(step > 0 for step in steps)


def test_an_exception_in_progress_ends_the_load(llama_path: Path) -> None:
    def stop(_: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        Model.load(llama_path, advance=stop)


@pytest.mark.parametrize("mmap", [True, False])
def test_with_and_without_mmap_and_checking(llama_path: Path, mmap: bool) -> None:
    with Model.load(llama_path, LoadOptions(mmap=mmap, check_tensors=True)) as model:
        assert model.info.n_layer == 2


def test_vocabulary_only(llama_path: Path) -> None:
    with Model.load(llama_path, LoadOptions(vocab_only=True)) as model:
        assert model.tokenizer.decode(model.tokenizer.encode("hello world")) == "hello world"
        with pytest.raises(EngineError, match="vocabulary only"):
            Context(model)


@pytest.mark.parametrize("named", [0, 2])
def test_any_shard_loads_all(tmp_path: Path, named: int) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=3)
    steps: list[int] = []
    with Model.load(shards[named], advance=steps.append) as model:
        assert model.info.n_layer == 2
    assert sum(steps) == sum(shard.stat().st_size for shard in shards)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=3)
    shards[1].unlink()
    with pytest.raises(FileGone, match="big-00002-of-00003"):
        Model.load(shards[0])


def test_overrides_replace_metadata(llama_path: Path) -> None:
    overrides: dict[str, int | float | bool | str] = {"llama.context_length": 77}
    with Model.load(llama_path, LoadOptions(overrides=overrides)) as model:
        assert model.info.n_ctx_train == 77


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileGone, match="there is no file"):
        Model.load(tmp_path / "nope.gguf")
    with pytest.raises(EngineError, match="is a folder"):
        Model.load(tmp_path)


def test_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"hello, this is no model at all")
    with pytest.raises(DamagedFile, match=r"x\.gguf is damaged: invalid magic"):
        Model.load(path)


@pytest.mark.parametrize("keep", [0, 3, 24, 1000, 20_000, -1, -40_000])
def test_truncated_anywhere(llama_path: Path, tmp_path: Path, keep: int) -> None:
    whole = llama_path.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:keep])
    with pytest.raises(DamagedFile) as caught:
        Model.load(path)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 7


def test_unknown_architecture(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "x.gguf", metadata={"general.architecture": "frobnicator"})
    with pytest.raises(EngineError, match=r"x\.gguf: unknown model architecture: 'frobnicator'"):
        Model.load(path)


def test_missing_key_is_the_reason_given(tmp_path: Path) -> None:
    model = llama_model()
    del model.metadata["llama.block_count"]
    with pytest.raises(EngineError, match=r"key not found in model: llama\.block_count"):
        Model.load(model.write(tmp_path / "x.gguf"))


def test_unknown_device_and_too_many_shares(llama_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"no device 'CUDA9' \(it has .*CPU"):
        Model.load(llama_path, LoadOptions(devices=("CUDA9",)))
    with pytest.raises(UsageProblem, match="tensor_split names 999 devices"):
        Model.load(llama_path, LoadOptions(tensor_split=(1.0,) * 999))


def test_no_devices_means_the_cpu(llama_path: Path) -> None:
    with Model.load(llama_path, LoadOptions(devices=())) as model:
        assert model.info.n_layer == 2


def test_a_file_without_vocabulary_is_refused_when_text_is_wanted(tmp_path: Path) -> None:
    model = llama_model()
    keys = {k: v for k, v in model.metadata.items() if not k.startswith("tokenizer.")}
    keys["tokenizer.ggml.model"] = Val("str", "no_vocab")
    model.metadata = keys
    with (
        Model.load(model.write(tmp_path / "x.gguf")) as loaded,
        pytest.raises(EngineError, match="no vocabulary"),
    ):
        _ = loaded.tokenizer


@pytest.mark.parametrize(
    "options",
    [
        ContextOptions(n_ctx=-1),
        ContextOptions(n_batch=0),
        ContextOptions(n_seq_max=0),
        ContextOptions(n_seq_max=100_000),
        ContextOptions(n_threads=-2),
        ContextOptions(type_k="q4_k"),
        ContextOptions(n_ctx=2**40),
        ContextOptions(n_batch=4, n_seq_max=8),
        ContextOptions(n_ctx=4, n_seq_max=8),
    ],
)
def test_context_options_out_of_range(llama: Model, options: ContextOptions) -> None:
    with pytest.raises(UsageProblem):
        Context(llama, options)


def test_a_context_that_llama_cpp_refuses(llama: Model) -> None:
    options = ContextOptions(n_ctx=256, type_v="q8_0", flash_attn="off", n_threads=1)
    with pytest.raises(EngineError, match="quantized V cache requires flash_attn"):
        Context(llama, options)


def test_context_sizes(llama: Model) -> None:
    options = ContextOptions(n_ctx=1000, n_seq_max=2, n_batch=300, n_threads=1, n_threads_batch=2)
    with Context(llama, options) as context:
        assert context.n_ctx >= 1000
        assert context.n_ctx % 256 == 0
        assert context.n_ctx_seq * 2 == context.n_ctx
        assert (context.n_seq_max, context.n_batch) == (2, 300)
        assert (context.n_threads, context.n_threads_batch) == (1, 2)


def test_moved_while_loaded(llama_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "moving.gguf"
    shutil.copy(llama_path, path)
    with Model.load(path) as model:
        path.rename(tmp_path / "moved.gguf")
        assert model.info.n_layer == 2


def test_files_that_make_llama_cpp_assert_are_errors_and_we_live_on(
    llama_path: Path, tmp_path: Path
) -> None:
    """llama.cpp asserts that tokens are distinct and that there are 1 to 512 layers."""
    wrong = {
        "twice.gguf": llama_path.read_bytes().replace(
            b"\x02\0\0\0\0\0\0\0he", b"\x02\0\0\0\0\0\0\0in", 1
        ),
        "flat.gguf": None,
    }
    for name, content in wrong.items():
        path = tmp_path / name
        if content is None:
            tiny_llama(path, metadata={"llama.block_count": Val("u32", 0)})
        else:
            path.write_bytes(content)
        for thread in (False, True):
            with pytest.raises(EngineError, match=rf"could not load {name}: \S+:\d+: GGML_ASSERT"):
                _elsewhere(path) if thread else Model.load(path)
    with Model.load(llama_path) as model:
        assert model.info.n_layer == 2
