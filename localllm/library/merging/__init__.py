"""Merging: adapters into a base, and whole models with each other.

    made = merge_adapters(base, [(adapter, 1.0)], AdapterRequest("Q6_K"), registry, progress)
    try_types(base, [(adapter, 1.0)], ["Q4_K_M", "Q6_K"], registry, progress)

Everything streams, row by row: memory does not grow with the model. Any room may merge what it
made (`finetune --merge`); `localllm merge` is one client.
"""
