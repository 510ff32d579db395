"""worker: this machine's devices for a model that runs elsewhere, over llama.cpp's RPC backend."""
