"""Judging models by a text: perplexity, and what they lost against the model they came from.

    outcome = quality(models, base, read_texts([]), registry, progress, plan=PlanOptions(n_ctx=512))

Any room that makes models may judge them (`quantize --measure`); `localllm quality` is one client.
"""
