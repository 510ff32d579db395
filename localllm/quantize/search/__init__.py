"""Which type for which tensor, so that a model of a given size loses least.

`sensitivity` says what each type does to each tensor, `trial` what that does to the model's
answers, `allocate` chooses, `search` puts them together.
"""
