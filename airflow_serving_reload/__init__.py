"""Airflow provider that brings freshly trained models to running model servers and proves that they are served."""

__version__ = "0.1.0"
