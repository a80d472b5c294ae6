"""Campaigns that attack the promises with real faults; `make faults` runs them whole, the tests a part of each."""
