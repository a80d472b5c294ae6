"""Tests against real systems: a whole Airflow, and the genuine Paddle Serving launcher."""
