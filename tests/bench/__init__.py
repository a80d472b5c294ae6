"""What every store costs and how it fails: `python -m tests.bench.stores` measures over the real servers of the tests.

`stores` is the program, with one file for each of its tables: `polls`, `model` and `faults`. What they measure runs as
`task`, in a process of its own, which `measuring` starts and `watching` looks at.
"""
