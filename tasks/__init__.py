"""One Prefect task per file, each a thin wrapper over an undecorated function of plain arguments and plain results.

Paths and hashes go in, dictionaries come out, never a tensor. What a worker keeps between two shards (plans, models)
lives in module globals, which persist because the decorated object never hides the function that uses them.
"""
