"""Measuring speed: llama-bench's rows and what it does not measure, kept in the registry.

    run = bench(model, cases, registry, progress)      # localllm.library.bench.bench

Any room may time a model (`quantize --measure`); `localllm bench` is the client that has every
option, shows, compares and gates.
"""
