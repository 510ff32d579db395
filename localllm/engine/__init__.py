"""The thin typed layer over llama-cpp-python's low-level bindings.

The only room that imports llama_cpp, and nothing here imports it before it is needed:
`native.lib()` is the one door. Every other module takes plain values and hands back
frozen dataclasses, numpy arrays or streams.
"""
