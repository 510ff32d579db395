"""Grammars followed without counting ways: which tokens may come next, in bounded time.

llama.cpp's sampler keeps every stack that a text may have led to as a list of its own, and asks
each candidate of each of them again (llama_grammar_reject_candidates calls itself once per stack
and character): a token of 16 characters costs 2^16 such calls where two ways lead on from each,
and what `a ::= "x" a "y" | "x" a "z" | ""` has read has 2^n stacks. Here the stacks of a text are
one graph (Tomita's graph-structured stack), equal graphs are one object, and what was found out
about an object is kept with it: a character costs at most the size of the grammar times the
length of the text, and most cost one look into a dictionary.
"""
