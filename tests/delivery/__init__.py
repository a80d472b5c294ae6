"""Tests of the engine: no Airflow, and no network but a probe on this host."""
