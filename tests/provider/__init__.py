"""The Airflow layer, by connections alone."""
