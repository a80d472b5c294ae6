"""What things cost: `python -m tests.bench` measures with real parts on this host, and `__main__` lists what there is.

A bench is a module with `main(arguments)`, which prints tables and keeps its figures by `figures`. What it measures
runs as `task`, in a process of its own, which `measuring` starts and `watching` looks at.
"""
