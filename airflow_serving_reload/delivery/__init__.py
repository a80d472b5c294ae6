"""The engine: brings a model from a store to a server. It knows nothing of Airflow.

In the order in which a model passes:

1. `stores`     where training puts models; one file per transport
2. `donefile`   versions of the donefile, and the decision: missing, unchanged, unsettled or changed
3. `archive`    safe unpacking, and packing, of what streams past
4. `release`    stage, publish, prune and roll back complete models on the serving host
5. `timestamp`  the file that makes the server hot reload
6. `servers`    ask a model server for the reload and prove that it happened; one file per kind of server
7. `pipeline`   the verb that joins the stages; none of them knows another, but `stores` the versions of `donefile`

It leaves some of the joining to `fetch` (the way down: a donefile's model, verified), `proof` (that a server serves a
release) and `fallback` (what becomes live again where it does not); `upload` is the way up, and `steps` the stages one
at a time.

Beside the way: `listing` (what a listing proves about a donefile), `transfer` (what moves up and down), `manifest`
(what is remembered of files that came, so that they need not come again), `errors` (what can go wrong),
`requests_faults` (what does over HTTP), `statuses` (which of HTTP's say to try again), `streams` (bytes on their way),
`stopwatch` (the seconds of each stage) and `filesystem` (what Linux offers and Python does not).
"""
